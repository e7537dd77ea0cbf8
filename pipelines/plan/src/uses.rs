//! `uses:`: the actions that are built in, and what each takes `with:`.

use serde_json::Value;

use crate::{
    action::{Action, ImageAction},
    finding::Finding,
    spec::{Spanned, Step},
    workflows::Request,
};

/// Reads a step's `with` into an action. `None` after a finding.
type Read = fn(&Asked<'_>, &mut Vec<Finding>) -> Option<Action>;

/// By name: what it takes, and how it is read.
const ACTIONS: [(&str, &[&str], Read); 1] = [("image", &["folder", "name", "version"], image)];

struct Asked<'a> {
    request: &'a Request<'a>,
    file: &'a str,
    step: &'a Step,
    uses: &'a Spanned<String>,
}

/// The action of a step. One that does not run may lack what it would need.
pub(crate) fn action(
    request: &Request<'_>,
    file: &str,
    step: &Step,
    uses: &Spanned<String>,
    runs: bool,
    findings: &mut Vec<Finding>,
) -> Option<Action> {
    let asked = Asked { request, file, step, uses };
    let Some((name, keys, read)) = ACTIONS.iter().find(|(name, ..)| *name == uses.value) else {
        let all: Vec<&str> = ACTIONS.iter().map(|(name, ..)| *name).collect();
        let message = format!("there is no built-in action `{}`; there is {}", uses.value, all.join(", "));
        findings.push(asked.finding("uses", uses, message));
        return None;
    };
    let mut sound = true;
    for (key, _) in step.with.iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
        let message = format!("`{name}` takes no `{}`; it takes {}", key.value, keys.join(", "));
        findings.push(asked.finding("uses-with", key, message));
        sound = false;
    }
    if !sound || !runs {
        return None;
    }
    read(&asked, findings)
}

impl Asked<'_> {
    fn finding(&self, code: &'static str, at: &Spanned<String>, message: String) -> Finding {
        Finding::error(self.file, code, message).at(at.at.line, at.at.column)
    }

    /// The text of a key, with its place.
    fn text(&self, key: &str, findings: &mut Vec<Finding>) -> Option<(&Spanned<String>, String)> {
        let (at, value) = self.step.with.iter().find(|(found, _)| found.value == key)?;
        match value {
            Value::String(text) => Some((at, text.clone())),
            Value::Number(number) => Some((at, number.to_string())),
            _ => {
                findings.push(self.finding("uses-with", at, format!("`{key}` is a text")));
                None
            }
        }
    }
}

fn image(asked: &Asked<'_>, findings: &mut Vec<Finding>) -> Option<Action> {
    let before = findings.len();
    let folder = asked.text("folder", findings);
    let (at, folder) = folder.map_or((asked.uses, String::new()), |(at, folder)| (at, folder));
    let folder = folder.trim_matches('/').trim_start_matches("./").to_owned();
    let folder = if folder == "." { String::new() } else { folder };
    let Some(candidate) = asked.request.images.iter().find(|candidate| candidate.folder == folder) else {
        let shown = if folder.is_empty() { "the root".to_owned() } else { format!("folder `{folder}`") };
        let message = format!(
            "{shown} has no Dockerfile with a spec.json beside it at this commit; add them, or name another `folder`"
        );
        findings.push(asked.finding("uses-image", at, message));
        return None;
    };
    let mut given = |key: &str| asked.text(key, findings).map(|(at, text)| (at.clone(), text));
    let (name, version) = (given("name"), given("version"));
    let mut read = |given: Option<(Spanned<String>, String)>, parse: &dyn Fn(&str) -> Result<(), String>| {
        let (at, text) = given?;
        match parse(&text) {
            Ok(()) => Some(text),
            Err(why) => {
                findings.push(asked.finding("uses-image", &at, why));
                None
            }
        }
    };
    let name =
        read(name, &|text| text.parse::<mergeyard_types::ImageName>().map(drop).map_err(|e| e.to_string()));
    let version =
        read(version, &|text| text.parse::<mergeyard_types::Version>().map(drop).map_err(|e| e.to_string()));
    if findings.len() > before {
        return None;
    }
    // What `with` says is enough: then nobody asks what stands in spec.json.
    let service = match (&candidate.service, &name, &version) {
        (Err(finding), None, _) | (Err(finding), _, None) => {
            findings.push(finding.clone());
            return None;
        }
        (service, ..) => service.as_ref().ok(),
    };
    let name =
        name.and_then(|name| name.parse().ok()).or_else(|| service.map(|service| service.name.clone()))?;
    let version = version
        .and_then(|version| version.parse().ok())
        .or_else(|| service.map(|service| service.version.clone()))?;
    Some(Action::Image(ImageAction { folder, name, version, tree: candidate.tree }))
}
