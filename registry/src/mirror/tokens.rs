//! Bearer tokens of an upstream registry, by what they allow.
//!
//! One question to the token server per repository at a time: the others wait for its answer
//! instead of asking the same.

use std::{collections::HashMap, time::Duration};

use mergeyard_types::Secret;
use serde::Deserialize;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

/// What a token without a lifetime is good for, by the token specification.
const DEFAULT_LIFETIME: u64 = 60;

/// Protects against a token that expires on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// A lifetime beyond this says nothing, and would overflow the clock.
const LONGEST: u64 = 24 * 60 * 60;

#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Token>>);

pub(super) struct Token {
    secret: Secret,
    expires: Instant,
}

impl Tokens {
    /// The token of a scope, if one is known and good.
    pub(super) async fn known(&self, scope: &str) -> Option<Secret> {
        let tokens = self.0.lock().await;
        valid(&tokens, scope)
    }

    /// The right to fetch a token. Whoever waited for it looks first whether another one than
    /// `refused` has come meanwhile.
    pub(super) async fn turn(&self, scope: &str, refused: Option<&Secret>) -> Turn<'_> {
        let tokens = self.0.lock().await;
        let newer = valid(&tokens, scope).filter(|token| Some(token) != refused);
        match newer {
            Some(token) => Turn::Newer(token),
            None => Turn::Fetch(Fetch(tokens)),
        }
    }
}

pub(super) enum Turn<'a> {
    Newer(Secret),
    Fetch(Fetch<'a>),
}

pub(super) struct Fetch<'a>(MutexGuard<'a, HashMap<String, Token>>);

impl Fetch<'_> {
    pub(super) fn keep(mut self, scope: String, token: Token) -> Secret {
        let (secret, now) = (token.secret.clone(), Instant::now());
        self.0.retain(|_, token| token.expires > now);
        self.0.insert(scope, token);
        secret
    }
}

fn valid(tokens: &HashMap<String, Token>, scope: &str) -> Option<Secret> {
    tokens.get(scope).filter(|token| token.expires > Instant::now()).map(|token| token.secret.clone())
}

/// What the token server answers.
#[derive(Deserialize)]
pub(super) struct Issued {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl Issued {
    pub(super) fn token(self) -> Option<Token> {
        let secret = self.token.or(self.access_token)?;
        let lifetime = Duration::from_secs(self.expires_in.unwrap_or(DEFAULT_LIFETIME).min(LONGEST));
        Some(Token { secret, expires: Instant::now() + lifetime.saturating_sub(MARGIN) })
    }
}
