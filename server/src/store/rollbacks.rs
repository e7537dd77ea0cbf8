//! Rollbacks: a new run that makes an earlier deployment live again.
//!
//! Which one is meant is decided from the book alone, in the transaction that writes the run. The
//! run does what the earlier one did, with the digests that were live then, at its commit.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_plan::{
    action::Action,
    decide::{PlannedStep, PlannedWorkflow, Verdict},
    facts::Facts,
    outputs,
    rules::{StepKind, StepRules, WorkflowRules},
};
use mergeyard_types::{DeploymentId, Digest, ImageName, RunId, State, StepId, TargetName, Timestamp};
use sqlx::Row;

use super::{
    DeploymentRow, DeploymentState, Job, Store, StoreError, Tx, deployments::deployment_row, to_json,
};

/// What `runs.event` says of a rollback: it is nobody's event.
pub const ROLLBACK: &str = "rollback";

/// Deployments of one target that are looked back to.
const MOST: u32 = 1000;

/// Digests that are listed in a refusal.
const LISTED: usize = 10;

/// The fewest digits that may stand for a digest.
const SHORTEST: usize = 6;

/// What is to be taken back.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What of the target; `None` where there is only one thing.
    pub service: Option<String>,
    /// A digest, or how its digits begin; `None`: what was live before.
    pub to: Option<String>,
}

/// A rollback that was begun.
#[derive(Debug, Clone)]
pub struct Rollback {
    pub run: RunId,
    /// What is live as far as the book knows.
    pub from: Option<Digest>,
    /// What is to be live again.
    pub to: DeploymentRow,
}

/// Why there is no rollback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRollback {
    #[error("nothing was proven on target `{0}` yet, so there is nothing to go back to")]
    Nothing(TargetName),
    #[error("target `{target}` has several services: name one of {}", services.join(", "))]
    Several { target: TargetName, services: Vec<String> },
    #[error("`{service}` was never proven on target `{target}`; there is {}", services.join(", "))]
    NoService { target: TargetName, service: String, services: Vec<String> },
    #[error(
        "{service} {live} is the first that was proven on target `{target}`, so there is nothing to go back to"
    )]
    First { target: TargetName, service: String, live: String },
    #[error("{service} was never proven with a digest `{wanted}` on target `{target}`; there is {}", known.join(", "))]
    Unknown { target: TargetName, service: String, wanted: String, known: Vec<String> },
    #[error("`{wanted}` may be one of {}; write more of it", known.join(", "))]
    Ambiguous { wanted: String, known: Vec<String> },
    #[error("{service} {live} is what is live on target `{target}`")]
    Live { target: TargetName, service: String, live: String },
    #[error("deployment {0} cannot be repeated: {1}")]
    Broken(DeploymentId, String),
}

/// What a wish comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    to: DeploymentRow,
    from: Option<Digest>,
    takes_back: DeploymentId,
}

impl Store {
    /// Begins a rollback, by `who`.
    pub async fn rollback(
        &self,
        target: &TargetName,
        wanted: &Wanted,
        who: &str,
        now: Timestamp,
    ) -> Result<Result<Rollback, NoRollback>, StoreError> {
        let mut tx = self.begin().await?;
        let rows = sqlx::query("SELECT * FROM deployments WHERE target = ? ORDER BY id DESC LIMIT ?")
            .bind(target.as_str())
            .bind(MOST)
            .fetch_all(&mut *tx.inner)
            .await?;
        let rows = rows.iter().map(deployment_row).collect::<Result<Vec<_>, _>>()?;
        let choice = match choose(target, wanted, &rows) {
            Ok(choice) => choice,
            Err(why) => return Ok(Err(why)),
        };
        let old = tx.job(choice.to.step).await?;
        let mut images = old.images.clone();
        let beside = rows.iter().filter(|row| row.step == choice.to.step);
        images.extend(beside.filter_map(|row| Some((row.image.clone()?, row.digest))));
        let action = match pinned(&old, &choice.to, images) {
            Ok(action) => action,
            Err(why) => return Ok(Err(NoRollback::Broken(choice.to.id, why))),
        };
        let run = tx.insert_rollback(&old, &choice, action, who, now).await?;
        tx.commit().await?;
        Ok(Ok(Rollback { run, from: choice.from, to: choice.to }))
    }
}

/// `rows` are all of the target, newest first. Of what one playbook made live together each tells what
/// was before it changed; the newest of these is one step back for all.
fn choose(target: &TargetName, wanted: &Wanted, rows: &[DeploymentRow]) -> Result<Choice, NoRollback> {
    let mut choices = Vec::new();
    let mut refusals = Vec::new();
    for service in services(target, wanted.service.as_deref(), rows)? {
        match of_service(target, service, wanted.to.as_deref(), rows) {
            Ok(choice) => choices.push(choice),
            Err(why) => refusals.push(why),
        }
    }
    // A digest is one service's, and what the others say of it is no help.
    let says_more = |why: &NoRollback| matches!(why, NoRollback::Live { .. } | NoRollback::Ambiguous { .. });
    let why = refusals.iter().position(says_more).unwrap_or(0);
    let newest = choices.into_iter().max_by_key(|choice| choice.to.id);
    newest.ok_or_else(|| refusals.swap_remove(why))
}

fn of_service(
    target: &TargetName,
    service: &str,
    wanted: Option<&str>,
    rows: &[DeploymentRow],
) -> Result<Choice, NoRollback> {
    let own: Vec<&DeploymentRow> = rows.iter().filter(|row| row.service == service).collect();
    let proven: Vec<&DeploymentRow> =
        own.iter().filter(|row| row.state == DeploymentState::Success).copied().collect();
    let nothing = || NoRollback::Nothing(target.clone());
    let (newest, last) = (*own.first().ok_or_else(nothing)?, *proven.first().ok_or_else(nothing)?);
    let from = match newest.state {
        DeploymentState::Success => Some(newest.digest),
        DeploymentState::RolledBack => newest.live,
        DeploymentState::InProgress | DeploymentState::Failure | DeploymentState::Error => None,
    };
    let with = |digest: Digest| proven.iter().find(|row| row.digest == digest).copied();
    let to = match (wanted, from) {
        (Some(text), _) => named(target, text, &proven)?,
        // What is live is not known, so what was proven last is what it ought to be.
        (None, None) => last,
        (None, Some(live)) => {
            let before = with(live).and_then(|row| row.before).filter(|before| *before != live);
            let other = || proven.iter().find(|row| row.digest != live).copied();
            before.and_then(with).or_else(other).ok_or_else(|| NoRollback::First {
                target: target.clone(),
                service: service.to_owned(),
                live: live.short(),
            })?
        }
    };
    if from == Some(to.digest) {
        let live = to.digest.short();
        return Err(NoRollback::Live { target: target.clone(), service: service.to_owned(), live });
    }
    Ok(Choice { to: to.clone(), from, takes_back: newest.id })
}

/// The one that is wanted, or those that go back together; one at least.
fn services<'r>(
    target: &TargetName,
    wanted: Option<&str>,
    rows: &'r [DeploymentRow],
) -> Result<Vec<&'r str>, NoRollback> {
    // The newest of each service.
    let mut live: BTreeMap<&str, &DeploymentRow> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.state == DeploymentState::Success) {
        live.entry(&row.service).or_insert(row);
    }
    let services = || live.keys().map(|service| format!("`{service}`")).collect();
    let mut all = live.values();
    let first = *all.next().ok_or_else(|| NoRollback::Nothing(target.clone()))?;
    match wanted {
        Some(wanted) => live.get(wanted).map(|row| vec![row.service.as_str()]).ok_or_else(|| {
            let service = wanted.chars().take(100).flat_map(char::escape_debug).collect();
            NoRollback::NoService { target: target.clone(), service, services: services() }
        }),
        // What one playbook made live together goes back together.
        None if all.all(|row| row.step == first.step) => Ok(live.keys().copied().collect()),
        None => Err(NoRollback::Several { target: target.clone(), services: services() }),
    }
}

/// The proven deployment with that digest, or with the one that begins so.
fn named<'r>(
    target: &TargetName,
    text: &str,
    proven: &[&'r DeploymentRow],
) -> Result<&'r DeploymentRow, NoRollback> {
    let digits = text.trim().to_ascii_lowercase();
    let digits = digits.strip_prefix("sha256:").unwrap_or(&digits);
    let is_meant = |row: &&DeploymentRow| digits.len() >= SHORTEST && row.digest.hex().starts_with(digits);
    let list = |rows: Vec<&DeploymentRow>| {
        let mut known: Vec<String> = Vec::new();
        for row in rows {
            let digest = row.digest.short();
            if !known.iter().any(|line| line.starts_with(&digest)) {
                known.push(format!("{digest} (run {})", row.run));
            }
        }
        known.truncate(LISTED);
        known
    };
    let found: Vec<&DeploymentRow> = proven.iter().copied().filter(|row| is_meant(row)).collect();
    let wanted = || text.chars().take(100).flat_map(char::escape_debug).collect();
    match found.first() {
        Some(first) if found.iter().all(|row| row.digest == first.digest) => Ok(first),
        Some(_) => Err(NoRollback::Ambiguous { wanted: wanted(), known: list(found) }),
        None => Err(NoRollback::Unknown {
            target: target.clone(),
            service: proven.first().map(|row| row.service.clone()).unwrap_or_default(),
            wanted: wanted(),
            known: list(proven.to_vec()),
        }),
    }
}

/// What the old step did, with everything that it took from its run fixed.
fn pinned(old: &Job, to: &DeploymentRow, images: BTreeMap<ImageName, Digest>) -> Result<Action, String> {
    let mut action = old.action.clone();
    outputs::fill(&mut action, &|step, key| old.outputs.get(step)?.get(key).cloned())?;
    match &mut action {
        Action::Image(_) | Action::Clone(_) | Action::Container(_) => {
            return Err(format!("its step is a `{}` and no deployment", old.action.name()));
        }
        Action::YumMirror(mirror) => mirror.snapshot = Some(to.digest),
        Action::Ansible(ansible) => ansible.pinned = images,
        Action::Rollout(rollout) => rollout.digest = Some(to.digest),
    }
    Ok(action)
}

impl Tx {
    async fn insert_rollback(
        &mut self,
        old: &Job,
        choice: &Choice,
        action: Action,
        who: &str,
        now: Timestamp,
    ) -> Result<RunId, StoreError> {
        let Choice { to, takes_back, .. } = choice;
        let new = self.next_run().await?;
        let title = format!("Roll {} on {} back to {}", to.service, to.target, to.digest.short());
        let row = sqlx::query("SELECT facts, known_as, merged FROM runs WHERE id = ?")
            .bind(to.run.0)
            .fetch_one(&mut *self.inner)
            .await?;
        let (facts, known_as): (String, String) = (row.try_get("facts")?, row.try_get("known_as")?);
        let facts = serde_json::from_str::<Facts>(&facts).ok();
        let facts = facts.map_or_else(|| "{}".to_owned(), |facts| to_json(&facts.repeated(new, 0, now)));
        sqlx::query(
            "INSERT INTO runs (id, key, delivery, forge, repo, known_as, clone_url, source_url, event, branch, commit_sha, \
             hints, merged, title, author, number, facts, account, fork, rollback_of, state, created) \
             SELECT ?2, 'rollback-' || ?2, delivery, forge, repo, known_as, clone_url, source_url, ?3, branch, commit_sha, \
             hints, merged, ?4, ?5, number, ?6, NULL, 0, ?7, ?8, ?9 FROM runs WHERE id = ?1",
        )
        .bind(to.run.0)
        .bind(new.0)
        .bind(ROLLBACK)
        .bind(title)
        .bind(who)
        .bind(facts)
        .bind(takes_back.0)
        .bind(State::Queued.as_str())
        .bind(now.0)
        .execute(&mut *self.inner)
        .await?;
        let workflow = self.rollback_workflow(old, action).await?;
        // In the old turn: what was merged since waits for it, and comes after it.
        let merged = Timestamp(row.try_get("merged")?);
        self.insert_workflow(new, &known_as, &workflow, merged, now).await?;
        self.announce(new, now).await?;
        Ok(new)
    }

    /// The one step, behind the clones that a playbook is read from.
    async fn rollback_workflow(&mut self, old: &Job, action: Action) -> Result<PlannedWorkflow, StoreError> {
        let mut steps = Vec::new();
        if matches!(action, Action::Ansible(_)) {
            for clone in self.clones(old).await? {
                let clone = self.job(clone).await?;
                let rules =
                    StepRules { needs: before(&steps), kind: StepKind::Clone, ..StepRules::default() };
                steps.push(planned(clone.name, clone.action, rules, clone.timeout));
            }
        }
        let rules = StepRules { needs: before(&steps), ..StepRules::default() };
        steps.push(planned(old.name.clone(), action, rules, old.timeout));
        Ok(PlannedWorkflow {
            name: ROLLBACK.to_owned(),
            axis: None,
            verdict: Verdict::Run,
            rules: WorkflowRules::default(),
            steps,
        })
    }

    async fn clones(&mut self, old: &Job) -> Result<Vec<StepId>, StoreError> {
        sqlx::query(
            "SELECT id FROM steps WHERE run = ? AND workflow = ? AND rules ->> '$.kind' = 'clone' AND NOT decided ORDER BY id",
        )
        .bind(old.lease.run.0)
        .bind(old.workflow.0)
        .fetch_all(&mut *self.inner)
        .await?
        .iter()
        .map(|row| Ok(StepId(row.try_get("id")?)))
        .collect()
    }
}

fn before(steps: &[PlannedStep]) -> Vec<usize> {
    steps.len().checked_sub(1).into_iter().collect()
}

fn planned(name: String, action: Action, rules: StepRules, timeout: Duration) -> PlannedStep {
    /// What the network broke is worth another try.
    const RETRIES: u32 = 2;
    let serial = action.serial();
    PlannedStep { name, verdict: Verdict::Run, action, rules, timeout, retry: RETRIES, serial }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newest first, each as step, service, a letter for its digest, the letter before it, and state.
    fn rows(told: &[(i64, &str, u8, Option<u8>, DeploymentState)]) -> Vec<DeploymentRow> {
        let row = |(at, (step, service, digest, before, state)): (
            usize,
            &(i64, &str, u8, Option<u8>, DeploymentState),
        )| {
            let digest = Digest::Sha256([*digest; 32]);
            DeploymentRow {
                id: DeploymentId(100 - at as i64),
                step: StepId(*step),
                run: RunId(*step),
                repo: "acme/clock".parse().unwrap(),
                target: target(),
                service: (*service).to_owned(),
                image: None,
                digest,
                before: before.map(|before| Digest::Sha256([before; 32])),
                commit: "1111111111111111111111111111111111111111".parse().unwrap(),
                number: None,
                who: String::new(),
                rollback_of: None,
                state: *state,
                health: None,
                live: (*state == DeploymentState::RolledBack)
                    .then(|| before.map(|before| Digest::Sha256([before; 32])))
                    .flatten(),
                started: Timestamp(0),
                finished: None,
                github: None,
            }
        };
        told.iter().enumerate().map(row).collect()
    }

    fn target() -> TargetName {
        "clock-vm".parse().unwrap()
    }

    fn chosen(
        told: &[(i64, &str, u8, Option<u8>, DeploymentState)],
        service: Option<&str>,
        to: Option<&str>,
    ) -> Result<u8, String> {
        let wanted = Wanted { service: service.map(str::to_owned), to: to.map(str::to_owned) };
        let choice = choose(&target(), &wanted, &rows(told)).map_err(|why| why.to_string())?;
        Ok(choice.to.digest.bytes()[0])
    }

    #[test]
    fn what_was_live_before_is_what_is_gone_back_to() {
        use DeploymentState::{Error, Failure, InProgress, RolledBack, Success};
        let two = [(2, "web", 0xb, Some(0xa), Success), (1, "web", 0xa, None, Success)];
        assert_eq!(chosen(&two, None, None), Ok(0xa));
        // The same once more changes nothing about what was before.
        let again = [&[(3, "web", 0xb, Some(0xb), Success)], &two[..]].concat();
        assert_eq!(chosen(&again, None, None), Ok(0xa));
        // Back and back again is forth.
        let back = [&[(3, "web", 0xa, Some(0xb), Success)], &two[..]].concat();
        assert_eq!(chosen(&back, None, None), Ok(0xb));
        let unproven = [&[(3, "web", 0xc, Some(0xb), RolledBack)], &two[..]].concat();
        assert_eq!(chosen(&unproven, None, None), Ok(0xa), "what is live is b again");
        for state in [InProgress, Failure, Error] {
            let unknown = [&[(3, "web", 0xc, Some(0xb), state)], &two[..]].concat();
            assert_eq!(chosen(&unknown, None, None), Ok(0xb), "{state}: b is what was proven last");
            assert_eq!(chosen(&unknown, None, Some("sha256:0b0b0b")), Ok(0xb), "{state}");
        }
    }

    #[test]
    fn who_is_not_clear_is_told_what_there_is() {
        use DeploymentState::{RolledBack, Success};
        let services = [
            (3, "web", 0xb, Some(0xa), Success),
            (2, "api", 0xc, None, Success),
            (1, "web", 0xa, None, Success),
        ];
        let several = chosen(&services, None, None).unwrap_err();
        assert!(several.ends_with("name one of `api`, `web`"), "{several}");
        assert_eq!(chosen(&services, Some("web"), None), Ok(0xa));
        assert!(chosen(&services, Some("api"), None).unwrap_err().contains("is the first"));
        assert!(
            chosen(&services, Some("x\u{1b}"), None).unwrap_err().contains("`x\\u{1b}` was never proven")
        );
        // One playbook's services go together.
        let one_step = [
            (2, "api", 0xc, Some(0xa), Success),
            (2, "web", 0xb, Some(0xa), Success),
            (1, "api", 0xa, None, Success),
        ];
        assert_eq!(chosen(&one_step, None, None), Ok(0xa));
        // One step back is back to what was before the last change, whichever of them it was of.
        let changes = [
            (3, "api", 0xc, Some(0xc), Success),
            (3, "web", 0x3, Some(0x1), Success),
            (2, "api", 0xc, Some(0xa), Success),
            (2, "web", 0x1, Some(0x1), Success),
            (1, "api", 0xa, None, Success),
            (1, "web", 0x1, None, Success),
        ];
        assert_eq!(chosen(&changes, None, None), Ok(0x1));
        assert_eq!(chosen(&changes[2..], None, None), Ok(0xa));
        assert_eq!(chosen(&changes, None, Some("0a0a0a")), Ok(0xa), "a digest says whose it is");
        assert!(
            chosen(&changes, None, Some("030303")).unwrap_err().contains("web 030303030303 is what is live")
        );
        assert!(chosen(&changes[4..], None, None).unwrap_err().contains("is the first"));
        for (to, says) in [
            ("0b0b0b", "is what is live"),
            ("0b", "never proven with a digest `0b`"),
            ("", "``"),
            ("zz", "`zz`"),
        ] {
            let why = chosen(&services, Some("web"), Some(to)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let known = chosen(&services, Some("web"), Some("ffffff")).unwrap_err();
        assert!(known.ends_with("there is 0b0b0b0b0b0b (run 3), 0a0a0a0a0a0a (run 1)"), "{known}");
        assert!(
            chosen(&[(1, "web", 0xa, None, RolledBack)], None, None)
                .unwrap_err()
                .contains("nothing was proven")
        );
        assert!(chosen(&[], None, None).is_err());
    }
}
