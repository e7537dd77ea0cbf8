//! Who may do what: users and robots, and their rights on repositories.
//!
//! The design is closed: who is not named may nothing, and each right is granted on a pattern of
//! repository names. Accounts are handed over in memory; where they are kept is the server's affair.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use globset::GlobMatcher;
use http::{HeaderMap, Method, header};
use mergeyard_types::{ImageName, Secret, Timestamp};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{config, route::Route};

/// A user or a robot.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub secret: SecretHash,
    pub grants: Vec<Grant>,
    /// From this instant on the secret is worth nothing.
    pub expires: Option<Timestamp>,
}

/// What is kept of a secret.
///
/// Secrets of this registry are generated tokens of at least 128 random bits, never words that
/// people think of. Nobody can try all of them, so one fast SHA-256 loses nothing against a slow
/// password hash, and each request of a push can afford it.
#[derive(Debug, Clone)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    pub fn of(secret: &Secret) -> Self {
        Self(Sha256::digest(secret.expose()).into())
    }

    /// As kept by [`SecretHash::bytes`].
    pub fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn matches(&self, other: &SecretHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Rights on every repository whose name fits a pattern: `*` stays within one part of the name,
/// `**` does not.
#[derive(Debug, Clone)]
pub struct Grant {
    repositories: GlobMatcher,
    rights: Vec<Right>,
}

impl Grant {
    pub fn new(repositories: &str, rights: &[Right]) -> Result<Self, globset::Error> {
        Ok(Self { repositories: config::repositories(repositories)?, rights: rights.to_vec() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Pull,
    Push,
    Delete,
}

/// An account that has proven who it is.
#[derive(Debug, Clone)]
pub struct Identity {
    pub name: String,
    grants: Vec<Grant>,
}

impl Identity {
    pub fn may(&self, right: Right, name: &ImageName) -> bool {
        let grants = |g: &Grant| g.rights.contains(&right) && g.repositories.is_match(name.as_str());
        self.grants.iter().any(grants)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An unknown account and a wrong secret are one answer, so that names cannot be tried out.
    #[error("authentication required: sign in with the name and secret of an account of this registry")]
    Unknown,
    #[error("the account `{account}` has expired: ask for a new secret")]
    Expired { account: String },
    /// What one may not read is answered as if it were not there.
    #[error("repository `{name}` does not exist, or `{account}` may not read it")]
    Hidden { account: String, name: ImageName },
    #[error("`{account}` may not {what} `{name}`: ask for the right on this repository")]
    Right { account: String, name: ImageName, what: &'static str },
}

/// The accounts of one registry, by name.
#[derive(Debug, Default)]
pub(crate) struct Accounts(HashMap<String, Account>);

impl Accounts {
    pub(crate) fn new(accounts: Vec<Account>) -> Self {
        Self(accounts.into_iter().map(|account| (account.name.clone(), account)).collect())
    }

    /// The one place where a request is let in. Other ways to prove an identity join here.
    pub(crate) fn authorize(
        &self,
        headers: &HeaderMap,
        method: &Method,
        route: &Route,
        now: Timestamp,
    ) -> Result<Identity, Denied> {
        let identity = self.authenticate(headers, now)?;
        let Some(name) = route.name() else { return Ok(identity) };
        let right = right_for(method, route);
        if identity.may(right, name) {
            return Ok(identity);
        }
        let (account, name) = (identity.name, name.clone());
        Err(match right {
            Right::Pull => Denied::Hidden { account, name },
            Right::Push => Denied::Right { account, name, what: "push to" },
            Right::Delete => Denied::Right { account, name, what: "delete from" },
        })
    }

    fn authenticate(&self, headers: &HeaderMap, now: Timestamp) -> Result<Identity, Denied> {
        let (name, secret) = basic(headers).ok_or(Denied::Unknown)?;
        let given = SecretHash::of(&secret);
        // An unknown name is compared too, with a hash nothing has, so that both take the same time.
        let nobody = SecretHash([0; 32]);
        let account = self.0.get(&name);
        let matches = account.map_or(&nobody, |account| &account.secret).matches(&given);
        let account = account.filter(|_| matches).ok_or(Denied::Unknown)?;
        if account.expires.is_some_and(|end| end <= now) {
            return Err(Denied::Expired { account: name });
        }
        Ok(Identity { name, grants: account.grants.clone() })
    }
}

fn right_for(method: &Method, route: &Route) -> Right {
    match (method, route) {
        (&Method::DELETE, Route::Manifest { .. } | Route::Blob { .. }) => Right::Delete,
        // The state of an upload is the pusher's, also when it is only asked for.
        (_, Route::Uploads { .. } | Route::Upload { .. }) => Right::Push,
        (&Method::GET | &Method::HEAD, _) => Right::Pull,
        _ => Right::Push,
    }
}

/// The name and secret of `Authorization: Basic …` (RFC 7617); a second such header is a trick.
fn basic(headers: &HeaderMap) -> Option<(String, Secret)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, secret) = text.split_once(':')?;
    Some((name.to_owned(), Secret::new(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accounts: &Accounts, method: Method, path: &str, who: &str) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode(who)).parse().unwrap();
        headers.insert(header::AUTHORIZATION, value);
        let route = Route::parse(&method, path).unwrap();
        accounts.authorize(&headers, &method, &route, Timestamp(1_000)).map(|identity| identity.name)
    }

    fn account(name: &str, pattern: &str, rights: &[Right], expires: Option<Timestamp>) -> Account {
        let secret = SecretHash::of(&Secret::new(format!("{name}Secret")));
        Account { name: name.into(), secret, grants: vec![Grant::new(pattern, rights).unwrap()], expires }
    }

    #[test]
    fn a_right_is_on_a_pattern_and_ends_at_its_hour() {
        let accounts = Accounts::new(vec![
            account("robot", "acme/*", &[Right::Pull, Right::Push], Some(Timestamp(1_001))),
            account("reader", "**", &[Right::Pull], None),
            account("gone", "**", &[Right::Pull], Some(Timestamp(1_000))),
        ]);
        let robot = "robot:robotSecret";
        assert_eq!(ask(&accounts, Method::GET, "/v2/", robot), Ok("robot".into()));
        assert_eq!(ask(&accounts, Method::PUT, "/v2/acme/clock/manifests/1", robot), Ok("robot".into()));
        let deeper = ask(&accounts, Method::GET, "/v2/acme/clock/x/manifests/1", robot);
        assert!(matches!(deeper, Err(Denied::Hidden { .. })));
        let delete = ask(&accounts, Method::DELETE, "/v2/acme/clock/manifests/1", robot);
        assert!(matches!(delete, Err(Denied::Right { what: "delete from", .. })));
        let reader = "reader:readerSecret";
        assert_eq!(ask(&accounts, Method::HEAD, "/v2/acme/clock/x/manifests/1", reader), Ok("reader".into()));
        let push = ask(&accounts, Method::POST, "/v2/acme/clock/blobs/uploads/", reader);
        assert!(matches!(push, Err(Denied::Right { what: "push to", .. })));
        let gone = ask(&accounts, Method::GET, "/v2/", "gone:goneSecret");
        assert_eq!(gone, Err(Denied::Expired { account: "gone".into() }));
    }

    #[test]
    fn an_unknown_account_and_a_wrong_secret_look_the_same() {
        let accounts = Accounts::new(vec![account("robot", "**", &[Right::Pull], None)]);
        for who in ["robot:wrong", "nobody:robotSecret", "robot:", ":", "robot", "gone:wrong"] {
            assert_eq!(ask(&accounts, Method::GET, "/v2/", who), Err(Denied::Unknown), "{who}");
        }
        let route = Route::parse(&Method::GET, "/v2/").unwrap();
        for value in ["", "Basic", "Basic !!!", "Bearer cm9ib3Q6cm9ib3RTZWNyZXQ="] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            let denied = accounts.authorize(&headers, &Method::GET, &route, Timestamp(0)).unwrap_err();
            assert_eq!(denied, Denied::Unknown, "{value}");
        }
    }
}
