//! What a step is given when it starts: the outputs of steps before it, its variables, its
//! secrets. Nothing of it is stored with the step: a rerun has other variables, and a secret is
//! looked up at the last moment.

use std::collections::BTreeMap;

use mergeyard_plan::{
    action::Action,
    environment::{self, Start},
    facts::Facts,
    outputs,
    secrets::{self, Level, SecretRule},
    settings,
};
use mergeyard_types::Secret;
use serde_json::Value;

use crate::{
    secrets::{Resolved, Scope, SecretName},
    store::Job,
    yard::Yard,
};

pub(crate) struct Given {
    pub(crate) action: Action,
    pub(crate) environment: Vec<(String, String)>,
    /// Values that nobody may read in the log.
    pub(crate) masked: Vec<Secret>,
}

pub(crate) async fn given(yard: &Yard, job: &Job) -> Result<Given, String> {
    let mut action = job.action.clone();
    outputs::fill(&mut action, &|step, key| job.outputs.get(step)?.get(key).cloned())?;
    let values = secret_values(yard, job, &action).await?;
    let secret = |name: &str| match values.get(&name.to_lowercase()) {
        Some(value) => Ok(value.expose().to_owned()),
        None => Err(format!("there is no secret `{name}`; set it with `mergeyard secret set {name}`")),
    };
    let ours = |directory: &str| {
        job.facts.as_ref().map(|facts| ours(yard, job, directory, facts)).unwrap_or_default()
    };
    let mut all = BTreeMap::new();
    match &mut action {
        Action::Image(_) | Action::Clone(_) | Action::YumMirror(_) => {}
        Action::Container(container) => {
            all.extend(ours(&container.directory));
            all.extend(settings::render(&container.environment, false, &secret)?);
            all.extend(settings::render(&container.settings, true, &secret)?);
        }
        Action::Ansible(ansible) => {
            all.extend(ours(&ansible.directory));
            settings::resolve(&mut ansible.variables, &secret)?;
        }
        // Of what it starts it is told that alone: a target is no place for variables of a run.
        Action::Rollout(rollout) => {
            all.extend(settings::render(&rollout.environment, false, &secret)?);
            rollout.environment =
                all.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        }
    }
    Ok(Given { environment: all.into_iter().collect(), masked: values.into_values().collect(), action })
}

/// The variables that mergeyard gives to every step.
fn ours(yard: &Yard, job: &Job, directory: &str, facts: &Facts) -> BTreeMap<String, String> {
    let url = format!("{}/steps/{}", yard.settings.run_url(job.lease.run), job.lease.step);
    let place = environment::Place {
        workflow: &job.place.workflow,
        workflow_number: job.place.workflow_number,
        step: &job.name,
        step_number: job.place.number,
        kind: job.rules.kind,
        workspace: directory,
        url: &url,
    };
    let start = Start {
        at: yard.clock.now(),
        run_started: job.run_started,
        failed: job.place.failed,
        output: None,
        script: None,
    };
    environment::at_start(facts, &place, &start)
}

/// The secrets that an action asks for, each only if its rule lets this step have it.
async fn secret_values(yard: &Yard, job: &Job, action: &Action) -> Result<BTreeMap<String, Secret>, String> {
    let (asked, image, plugin): (Vec<&Value>, &str, bool) = match action {
        Action::Image(_) | Action::Clone(_) | Action::YumMirror(_) => return Ok(BTreeMap::new()),
        Action::Container(container) => {
            let values = container.environment.values().chain(container.settings.values());
            (values.collect(), &container.image, container.plugin)
        }
        Action::Ansible(ansible) => (ansible.variables.values().collect(), &ansible.image, false),
        Action::Rollout(rollout) => (rollout.environment.values().collect(), rollout.image.as_str(), false),
    };
    let mut values = BTreeMap::new();
    for name in asked.into_iter().flat_map(settings::secrets) {
        if let Some(value) = secret_value(yard, job, (image, plugin), &name).await? {
            values.insert(name, value);
        }
    }
    Ok(values)
}

async fn secret_value(
    yard: &Yard,
    job: &Job,
    (image, plugin): (&str, bool),
    name: &str,
) -> Result<Option<Secret>, String> {
    let Some(facts) = &job.facts else {
        return Err(format!("secret `{name}` is asked for, and it is not known by what event"));
    };
    if job.fork {
        return Err(format!("secret `{name}` is not given to pull requests from forks"));
    }
    let found = yard.secrets().resolve(&job.known_as, &name.parse::<SecretName>()?).await;
    let Some(Resolved { scope, rule, value }) = found.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let level = match scope {
        Scope::Repository(_) => Level::Repository,
        Scope::Organisation(_) => Level::Organisation,
        Scope::Global => Level::Global,
    };
    let rule = SecretRule { name: name.to_owned(), level, events: rule.events, images: rule.images };
    secrets::available(&rule, facts.pipeline.event, image, plugin)?;
    Ok(Some(value))
}
