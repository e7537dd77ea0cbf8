//! The webhook at GitHub: created when it is missing, repaired when it would not work.

use std::collections::BTreeMap;

use http::Method;
use mergeyard_types::{RepoName, Secret, Timestamp};
use serde::Deserialize;
use url::Url;

use super::{Github, GithubError, HookDelivery, error::Task, is_loopback, tunnel};

pub(super) const PERMISSION: &str =
    "the token needs `Webhooks: write` (fine-grained) or the scope `admin:repo_hook` (classic)";

/// What mergeyard acts on. More events than these do no harm and are left as they are.
const EVENTS: [&str; 4] = ["pull_request", "push", "release", "deployment"];

/// How many of the last deliveries `check` looks at.
const RECENT: u8 = 30;

/// What the webhook must be. The rest is the same for everybody: JSON, a verified
/// certificate, switched on.
#[derive(Debug, Clone)]
pub struct HookWanted {
    url: Url,
    secret: Secret,
}

impl HookWanted {
    pub fn new(url: Url, secret: Secret) -> Result<Self, GithubError> {
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err(GithubError::Settings(format!(
                "a webhook to `{url}` would travel in the clear: set http.public_url to an https:// address"
            )));
        }
        if secret.expose().is_empty() {
            return Err(GithubError::Settings("a webhook needs a secret: set github.webhook_secret".into()));
        }
        Ok(Self { url, secret })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    Created(u64),
    Repaired { id: u64, differences: Vec<String> },
    AlreadyRight(u64),
}

/// What `check` found, in sentences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookCheck {
    pub hook: Option<u64>,
    /// What keeps deliveries from arriving. Empty when all is well.
    pub differences: Vec<String>,
    /// What is good to know and no reason to worry.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Hook {
    pub id: u64,
    pub active: bool,
    pub events: Vec<String>,
    pub config: HookConfig,
    pub last_response: Option<LastResponse>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct HookConfig {
    pub url: Option<String>,
    pub content_type: Option<String>,
    /// GitHub has answered with `"0"` and with `0`.
    pub insecure_ssl: Option<serde_json::Value>,
    /// GitHub shows only that there is one.
    pub secret: Option<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct LastResponse {
    pub code: Option<u16>,
    pub message: Option<String>,
}

impl Github {
    pub async fn hooks(&self, repo: &RepoName) -> Result<Vec<Hook>, GithubError> {
        // A repository has at most twenty webhooks for one event: they fit on one page.
        let task = Task { what: format!("list the webhooks of {repo}"), permission: PERMISSION };
        self.call(&task, Method::GET, &format!("/repos/{repo}/hooks?per_page=100"), None).await?.read(&task)
    }

    /// Creates the webhook or makes it right. The secret is written each time, since GitHub
    /// does not show it: afterwards it is the wanted one, whatever it was before.
    pub async fn ensure_hook(
        &self,
        repo: &RepoName,
        wanted: &HookWanted,
    ) -> Result<HookOutcome, GithubError> {
        let hooks = self.hooks(repo).await?;
        let config = serde_json::json!({
            "url": wanted.url.as_str(),
            "content_type": "json",
            "insecure_ssl": "0",
            "secret": wanted.secret.expose(),
        });
        let Some(hook) = ours(&hooks, wanted) else {
            let task = Task { what: format!("create a webhook in {repo}"), permission: PERMISSION };
            let body =
                serde_json::json!({ "name": "web", "active": true, "events": EVENTS, "config": config });
            let answer = self.call(&task, Method::POST, &format!("/repos/{repo}/hooks"), Some(&body)).await?;
            return Ok(HookOutcome::Created(answer.read::<Hook>(&task)?.id));
        };
        let id = hook.id;
        let task = Task { what: format!("repair webhook {id} of {repo}"), permission: PERMISSION };
        let body = serde_json::json!({ "active": true, "add_events": EVENTS, "config": config });
        let answer =
            self.call(&task, Method::PATCH, &format!("/repos/{repo}/hooks/{id}"), Some(&body)).await?;
        answer.read::<Hook>(&task)?;
        let differences = hook.differences(wanted);
        Ok(if differences.is_empty() {
            HookOutcome::AlreadyRight(id)
        } else {
            HookOutcome::Repaired { id, differences }
        })
    }

    /// Says what is wrong with the webhook and changes nothing.
    pub async fn check_hook(&self, repo: &RepoName, wanted: &HookWanted) -> Result<HookCheck, GithubError> {
        let hooks = self.hooks(repo).await?;
        let Some(hook) = ours(&hooks, wanted) else {
            let missing = format!(
                "no webhook of {repo} sends to {}: create it with `mergeyard hook add {repo}`",
                wanted.url
            );
            return Ok(HookCheck { differences: vec![missing], ..HookCheck::default() });
        };
        let mut check = HookCheck {
            hook: Some(hook.id),
            differences: hook.differences(wanted),
            notes: vec!["github does not show the webhook's secret, so it cannot be compared; `mergeyard hook add` sets it anew".into()],
        };
        let twins = hooks.iter().filter(|other| other.id != hook.id && other.sends_to(wanted));
        check.differences.extend(twins.map(|twin| {
            format!("webhook {} sends to the same address, so every delivery comes twice: delete it", twin.id)
        }));
        let (recent, _) = self.delivery_page(repo, hook.id, RECENT, None).await?;
        check.look_at(&recent);
        Ok(check)
    }
}

impl HookCheck {
    /// A delivery that failed and later arrived is history; one that never did is missing.
    fn look_at(&mut self, recent: &[HookDelivery]) {
        let mut arrived = BTreeMap::new();
        for delivery in recent {
            *arrived.entry(&delivery.guid).or_insert(false) |= delivery.arrived();
        }
        let lost = arrived.values().filter(|arrived| !**arrived).count();
        let newest = recent.iter().max_by_key(|delivery| (delivery.delivered_at, delivery.id));
        match newest {
            Some(newest) if !newest.arrived() => self.differences.push(format!(
                "the last delivery ({} {} at {}) was answered {}, and {lost} of the last {} never arrived: when the cause is mended, ask for them with `mergeyard deliveries reconcile`",
                newest.event, newest.guid.as_str(), clock(newest.delivered_at), newest.status_code, arrived.len()
            )),
            Some(_) if lost > 0 => self.notes.push(format!(
                "{lost} of the last {} deliveries never arrived: ask for them with `mergeyard deliveries reconcile`",
                arrived.len()
            )),
            Some(_) => {}
            None => self.notes.push("github has sent nothing yet".into()),
        }
    }
}

impl Hook {
    fn sends_to(&self, wanted: &HookWanted) -> bool {
        self.address().is_some_and(|address| address == wanted.url)
    }

    fn address(&self) -> Option<Url> {
        Url::parse(self.config.url.as_deref()?).ok()
    }

    fn differences(&self, wanted: &HookWanted) -> Vec<String> {
        let Hook { id: _, active, events, config, last_response } = self;
        let mut found = Vec::new();
        if !self.sends_to(wanted) {
            let old = config.url.as_deref().unwrap_or("nowhere");
            found.push(format!("it sends to {old} and not to {}", wanted.url));
        }
        if !active {
            found.push("it is switched off".into());
        }
        let sends = |event: &str| events.iter().any(|sent| sent == event || sent == "*");
        for event in EVENTS.into_iter().filter(|event| !sends(event)) {
            found.push(format!("it does not send the event `{event}`"));
        }
        if config.content_type.as_deref() != Some("json") {
            let other = config.content_type.as_deref().unwrap_or("form");
            found.push(format!("its content type is `{other}` and not `json`"));
        }
        let verified = |value: &serde_json::Value| value == "0" || *value == 0;
        if !config.insecure_ssl.as_ref().is_none_or(verified) {
            found.push("it does not verify the certificate of this server".into());
        }
        if config.secret.as_ref().is_none_or(|secret| secret.expose().is_empty()) {
            found.push("it has no secret, so its deliveries are refused".into());
        }
        if let Some(401) = last_response.as_ref().and_then(|last| last.code) {
            found.push("its last delivery was answered 401: its secret is another one".into());
        }
        found
    }
}

/// The webhook that is this server's: the one to the wanted address, or one to the same
/// path at an address lent by a tunnel, which is another one after each start of the agent.
fn ours<'a>(hooks: &'a [Hook], wanted: &HookWanted) -> Option<&'a Hook> {
    let lent = |hook: &&Hook| {
        hook.address().is_some_and(|url| tunnel::is_tunnel(&url) && url.path() == wanted.url.path())
    };
    hooks.iter().find(|hook| hook.sends_to(wanted)).or_else(|| hooks.iter().find(lent))
}

fn clock(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}
