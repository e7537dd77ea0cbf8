//! A pipeline file, read.
//!
//! The built-in pipelines are ordinary files of the pipeline language, compiled into the
//! binary; they go through this reader like any other file.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::finding::Finding;

/// The pipeline a repository gets without writing one; the words in the file say when.
pub const BUILTIN_IMAGE: (&str, &str) = ("image.yml", include_str!("../../builtin/image.yml"));

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    pub when: When,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    pub event: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub name: String,
    pub uses: Uses,
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a step that failed through no fault of the user's is tried again.
    #[serde(default)]
    pub retry: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uses {
    Image,
}

impl Pipeline {
    pub fn parse(file: &str, text: &str) -> Result<Self, Finding> {
        serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) =
                error.location().map_or((0, 0), |at| (at.line() as usize, at.column() as usize));
            Finding::error(file, "pipeline-yaml", error.to_string()).at(line, column)
        })
    }
}

fn default_timeout() -> Duration {
    Duration::from_secs(3600)
}

/// `90s`, `30m`, `2h`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || D::Error::custom(format!("`{text}` is not a duration: write a number and s, m or h, such as 30m"));
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_pipeline_reads() {
        let (file, text) = BUILTIN_IMAGE;
        let pipeline = Pipeline::parse(file, text).unwrap();
        assert_eq!(pipeline.when.event, ["pull_request_merged", "push"]);
        assert_eq!(pipeline.steps[0].timeout, Duration::from_secs(1800));
        assert_eq!(pipeline.steps[0].retry, 3);
    }

    #[test]
    fn a_wrong_key_is_found_on_its_line() {
        let text = "when: {event: [push]}\nsteps:\n  - name: a\n    uses: image\n    timeuot: 3m\n";
        let finding = Pipeline::parse("image.yml", text).unwrap_err();
        assert_eq!(finding.line, 5, "{finding}");
        assert!(finding.message.contains("timeuot"), "{finding}");
    }

    #[test]
    fn durations_have_a_unit() {
        for bad in ["30", "m", "", "-3m", "3d", "99999999999999999999h"] {
            let text =
                format!("when: {{event: [push]}}\nsteps: [{{name: a, uses: image, timeout: '{bad}'}}]\n");
            assert!(Pipeline::parse("image.yml", &text).is_err(), "{bad:?} was taken for a duration");
        }
    }
}
