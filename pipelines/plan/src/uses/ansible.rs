//! `uses: ansible`: a playbook of the commit, run against a target.

use std::collections::BTreeMap;

use super::{
    Key, health, target,
    with::{With, path},
};
use crate::{
    action::{Action, AnsibleAction},
    event::one_line,
};

pub(super) const KEYS: [Key; 6] = [
    ("target", "The machine, by the operator's name for it"),
    ("playbook", "The file that is run, in `folder`; site.yml"),
    ("folder", "The folder of the commit where Ansible is started; the root"),
    ("image", "An image that has ansible-playbook; mergeyard-ansible"),
    ("variables", "Extra variables; values may be from_secret"),
    (
        "health",
        "What proves it: an address, a path, or a map with url or path, status, body, timeout, retries, interval",
    ),
];

/// Built from `examples/clock/ansible/Dockerfile`.
const IMAGE: &str = "mergeyard-ansible";

pub(super) fn read(with: &mut With<'_>) -> Option<Action> {
    let (base, directory, check) = (with.asked.base.clone(), with.asked.directory.clone(), with.is_check());
    let target = target::read(with);
    let playbook = with.read("playbook", playbook).unwrap_or_else(|| "site.yml".to_owned());
    let folder = with.read("folder", path).unwrap_or_default();
    let image = with.read("image", image).unwrap_or_else(|| IMAGE.to_owned());
    let variables = with.variables("variables");
    let health = health::read(with, false);
    Some(Action::Ansible(Box::new(AnsibleAction {
        target: target?,
        playbook,
        folder,
        image,
        base,
        directory,
        variables,
        check,
        health,
        pinned: BTreeMap::new(),
    })))
}

fn playbook(text: &str) -> Result<String, String> {
    match path(text)? {
        path if path.is_empty() => Err("names no file; write one such as `site.yml`".to_owned()),
        path => Ok(path),
    }
}

fn image(text: &str) -> Result<String, String> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/' | b':' | b'@');
    match !text.is_empty() && text.len() <= 500 && !text.starts_with('-') && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{}` is no image", one_line(text))),
    }
}
