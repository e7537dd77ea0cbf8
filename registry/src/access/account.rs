//! Accounts and what they are granted.

use std::{fmt, sync::Arc};

use globset::GlobMatcher;
use mergeyard_types::{ImageName, Secret, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::{ANONYMOUS, scope::Scopes};
use crate::config::{self, Config};

/// No repository has a longer name, so no pattern needs to be longer.
const PATTERN_BYTES: usize = 255;

/// A user or a robot.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub secret: SecretHash,
    pub grants: Vec<Grant>,
    /// Whether it may have the registry collected and verified.
    pub is_operator: bool,
    /// From this instant on the secret is worth nothing.
    pub expires: Option<Timestamp>,
}

/// What is kept of a secret.
///
/// Secrets of this registry are generated tokens of at least 128 random bits, never words that
/// people think of. Nobody can try all of them, so one fast SHA-256 loses nothing against a slow
/// password hash, and each request of a push can afford it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// What no secret has: an unknown name is compared with it.
    pub(super) const NOBODY: Self = Self([0; 32]);

    pub fn of(secret: &Secret) -> Self {
        Self(Sha256::digest(secret.expose()).into())
    }

    pub(super) fn matches(&self, other: &SecretHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Tells one secret from the next without telling anything about either; tokens carry it.
    pub(super) fn generation(&self) -> String {
        hex::encode(&Sha256::digest(self.0)[..16])
    }
}

impl TryFrom<String> for SecretHash {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash)?;
        Ok(Self(hash))
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hex::encode(hash.0)
    }
}

/// Rights on every repository whose name fits a pattern: `*` stays within one part of the name,
/// `**` does not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RawGrant", into = "RawGrant")]
pub struct Grant {
    repositories: GlobMatcher,
    rights: Vec<Right>,
}

#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    #[error("`{0}` is not a pattern of repository names: write it like `acme/clock`, `acme/*` or `acme/**`")]
    Characters(String),
    #[error("a pattern of repository names has at most {PATTERN_BYTES} characters")]
    Length,
    #[error("the pattern of repository names is not valid")]
    Pattern(#[from] globset::Error),
    #[error("a grant on `{0}` gives no right: name pull, push or delete")]
    Nothing(String),
}

impl Grant {
    pub fn new(repositories: &str, rights: &[Right]) -> Result<Self, GrantError> {
        // Only what can stand in a name, and what globs are made of: a pattern that can fit nothing
        // is somebody's mistake, and better found when it is written.
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"/._-*?[]!{},".contains(&b);
        if repositories.len() > PATTERN_BYTES {
            return Err(GrantError::Length);
        }
        if repositories.is_empty() || repositories.starts_with('/') || !repositories.bytes().all(good) {
            return Err(GrantError::Characters(repositories.escape_debug().to_string()));
        }
        if rights.is_empty() {
            return Err(GrantError::Nothing(repositories.to_owned()));
        }
        Ok(Self { repositories: config::repositories(repositories)?, rights: rights.to_vec() })
    }

    pub fn repositories(&self) -> &str {
        self.repositories.glob().glob()
    }

    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    fn gives(&self, right: Right, name: &ImageName) -> bool {
        self.rights.contains(&right) && self.repositories.is_match(name.as_str())
    }
}

/// A grant as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrant {
    repositories: String,
    rights: Vec<Right>,
}

impl TryFrom<RawGrant> for Grant {
    type Error = GrantError;

    fn try_from(raw: RawGrant) -> Result<Self, GrantError> {
        Grant::new(&raw.repositories, &raw.rights)
    }
}

impl From<Grant> for RawGrant {
    fn from(grant: Grant) -> Self {
        Self { repositories: grant.repositories().to_owned(), rights: grant.rights }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    Pull,
    Push,
    Delete,
}

impl Right {
    pub(super) const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Pull => "pull",
            Right::Push => "push",
            Right::Delete => "delete",
        })
    }
}

/// Whoever has proven to be an account, or is nobody in particular; and, when this was proven by a
/// token, what the token is good for. A token only ever takes away.
#[derive(Debug, Clone)]
pub struct Identity {
    pub name: String,
    account: Option<Arc<Account>>,
    token: Option<Scopes>,
    config: Arc<Config>,
}

impl Identity {
    pub(super) fn account(account: Arc<Account>, config: &Arc<Config>) -> Self {
        let name = account.name.clone();
        Self { name, account: Some(account), token: None, config: config.clone() }
    }

    pub(super) fn anonymous(config: &Arc<Config>) -> Self {
        Self { name: ANONYMOUS.to_owned(), account: None, token: None, config: config.clone() }
    }

    pub(super) fn limited_to(self, token: Scopes) -> Self {
        Self { token: Some(token), ..self }
    }

    /// By name and secret only: no token is for this.
    pub(super) fn is_operator(&self) -> bool {
        self.token.is_none() && self.account.as_ref().is_some_and(|account| account.is_operator)
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.account.is_none()
    }

    /// Of the secret its tokens hang on.
    pub(super) fn generation(&self) -> String {
        self.account.as_ref().map_or(&SecretHash::NOBODY, |account| &account.secret).generation()
    }

    /// Whether this request may: the account now, and the token it came with.
    pub fn may(&self, right: Right, name: &ImageName) -> bool {
        self.holds(right, name) && self.covers(right, name)
    }

    /// Whether the account may, whatever token it came with.
    pub(crate) fn holds(&self, right: Right, name: &ImageName) -> bool {
        let open = right == Right::Pull && self.config.rules(name).anonymous_pull;
        open || self.account.iter().flat_map(|account| &account.grants).any(|grant| grant.gives(right, name))
    }

    pub(super) fn covers(&self, right: Right, name: &ImageName) -> bool {
        self.token.as_ref().is_none_or(|token| token.allow(right, name))
    }

    pub(super) fn covers_catalog(&self) -> bool {
        self.token.as_ref().is_none_or(Scopes::allow_catalog)
    }
}
