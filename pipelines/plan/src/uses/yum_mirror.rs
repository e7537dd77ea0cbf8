//! `uses: yum-mirror`: the packages that a list of the commit names, on a mirror.

use super::{
    Key, target,
    with::{With, path},
};
use crate::{
    action::{Action, YumMirrorAction},
    event::one_line,
    package_list::LISTS,
};

pub(super) const KEYS: [Key; 2] = [
    ("target", "The mirror; not needed where the repository may use only one"),
    ("file", "The list of packages in the commit; packages.txt, else packages.json"),
];

pub(super) fn read(with: &mut With<'_>) -> Option<Action> {
    let check = with.is_check();
    let target = target::read_mirror(with);
    let file = match with.get("file") {
        Some(_) => with.read("file", list),
        None => default(with),
    };
    Some(Action::YumMirror(YumMirrorAction { target: target?, file: file?, check, snapshot: None }))
}

fn default(with: &mut With<'_>) -> Option<String> {
    let request = with.asked.request;
    let there = LISTS.iter().find(|list| request.lists.iter().any(|there| there == *list));
    // Without a commit nobody knows what is in it.
    let there = there.or_else(|| request.targets.is_none().then_some(&LISTS[0]));
    if there.is_none() {
        let message = "there is no packages.txt and no packages.json in the commit's root; add one, or name another list";
        with.miss("file", message);
    }
    there.map(|list| (*list).to_owned())
}

fn list(text: &str) -> Result<String, String> {
    let path = path(text)?;
    match path.rsplit_once('.') {
        Some((_, "txt" | "json")) => Ok(path),
        _ => Err(format!(
            "`{}` is neither a `.txt` with a package a line nor a `.json` with `{{\"packages\":[…]}}`",
            one_line(text)
        )),
    }
}
