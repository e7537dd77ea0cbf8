//! What Ansible counted, from the last lines that it wrote.

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use crate::{StepFault, engine::Engine};

/// The recap of one host is a line; a callback plugin may write more after it.
const LAST_LINES: &str = "40";

/// No sum of a recap is longer.
const LONGEST: usize = 64 * 1024;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recap {
    tasks: u64,
    changed: u64,
}

impl Recap {
    /// Of a container that ended well. Whoever writes something else than Ansible does has no recap.
    pub(super) async fn of(engine: &Engine, container: &str) -> Result<Self, StepFault> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(false).tail(LAST_LINES).build();
        let docker = engine.docker().await?;
        let mut frames = std::pin::pin!(docker.logs(container, Some(options)));
        let mut said = Vec::new();
        while let Some(frame) = frames.next().await {
            let frame = engine.checked("read the end of a playbook", frame).await?.into_bytes();
            if said.len() + frame.len() > LONGEST {
                break;
            }
            said.extend_from_slice(&frame);
        }
        Ok(Self::read(&String::from_utf8_lossy(&said)))
    }

    /// `clock-vm : ok=12 changed=2 unreachable=0 failed=0 skipped=3 rescued=0 ignored=0`
    fn read(said: &str) -> Self {
        let after = said.rsplit_once("PLAY RECAP").map_or("", |(_, after)| after);
        let counted = |line: &str, what: &str| -> u64 {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
            word.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        after.lines().skip(1).fold(Self::default(), |sum, line| Self {
            tasks: sum.tasks.saturating_add(counted(line, "ok")),
            changed: sum.changed.saturating_add(counted(line, "changed")),
        })
    }

    pub(super) fn done(&self) -> String {
        format!("{} of {} tasks changed something", self.changed, self.tasks)
    }

    pub(super) fn check(&self) -> String {
        format!("{} of {} tasks would change something", self.changed, self.tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recap_is_counted_and_what_is_none_counts_nothing() {
        let said = "ok: [a] => changed=9\n\nPLAY RECAP ****\na : ok=12   changed=2    unreachable=0    failed=0\nb : ok=1 changed=0\n";
        let recap = Recap::read(said);
        assert_eq!(recap, Recap { tasks: 13, changed: 2 });
        assert_eq!(recap.check(), "2 of 13 tasks would change something");
        for odd in ["", "ok=1 changed=1", "PLAY RECAP", "PLAY RECAP *\nok=x changed=-1 =="] {
            assert_eq!(Recap::read(odd), Recap::default(), "{odd}");
        }
    }
}
