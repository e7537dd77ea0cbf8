//! `uses: image`: one folder of the commit, built and published.

use mergeyard_types::{ImageName, Version};

use super::{Key, with::With};
use crate::action::{Action, ImageAction};

pub(super) const KEYS: [Key; 3] = [
    ("folder", "The folder of the commit with the Dockerfile; the root when not said"),
    ("name", "In the place of the name in spec.json"),
    ("version", "In the place of the version in spec.json"),
];

pub(super) fn read(with: &mut With<'_>) -> Option<Action> {
    let folder = with.text("folder");
    let (at, folder) = folder.map_or((with.asked.uses, String::new()), |(at, folder)| (at, folder));
    let folder = folder.trim_matches('/').trim_start_matches("./").to_owned();
    let folder = if folder == "." { String::new() } else { folder };
    let request = with.asked.request;
    let Some(candidate) = request.images.iter().find(|candidate| candidate.folder == folder) else {
        let shown = if folder.is_empty() { "the root".to_owned() } else { format!("folder `{folder}`") };
        let message = format!(
            "{shown} has no Dockerfile with a spec.json beside it at this commit; add them, or name another `folder`"
        );
        with.say("uses-image", at, message);
        return None;
    };
    let name = named::<ImageName>(with, "name");
    let version = named::<Version>(with, "version");
    if !with.findings.is_empty() {
        return None;
    }
    // What `with` says is enough: then nobody asks what stands in spec.json.
    let service = match (&candidate.service, &name, &version) {
        (Err(finding), None, _) | (Err(finding), _, None) => {
            with.findings.push(finding.clone());
            return None;
        }
        (service, ..) => service.as_ref().ok(),
    };
    let name = name.or_else(|| service.map(|service| service.name.clone()))?;
    let version = version.or_else(|| service.map(|service| service.version.clone()))?;
    Some(Action::Image(ImageAction { folder, name, version, tree: candidate.tree }))
}

fn named<T: std::str::FromStr<Err = mergeyard_types::NameError>>(
    with: &mut With<'_>,
    key: &str,
) -> Option<T> {
    let (at, text) = with.text(key)?;
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            with.say("uses-image", at, error.to_string());
            None
        }
    }
}
