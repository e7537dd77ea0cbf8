//! Who may do what: accounts and robots, their rights on repositories, and how they prove who
//! they are.
//!
//! The design is closed: who is not named may nothing, except read what the operator opened to
//! everybody, and each right is granted on a pattern of repository names. There are three ways in.
//! A name and a secret (`Basic`) are good on every endpoint. A token (`Bearer`), fetched with them,
//! is good for what it was asked for. And whoever shows nothing is `anonymous`.
//!
//! What an account may is decided on each request, by one function, from what is granted now.

mod account;
mod credentials;
mod known_robots;
mod robots;
mod scope;
#[cfg(test)]
mod tests;
mod throttle;
mod token;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::extract::ConnectInfo;
use governor::clock::DefaultClock;
use http::{Method, header, request::Parts};
use mergeyard_types::{ImageName, RegistryHost, Secret, Timestamp};

pub use account::{Account, Grant, GrantError, Identity, Right, SecretHash};
pub(crate) use credentials::{Credentials, Login};
pub use robots::{NewRobot, Robot, RobotError, RobotName, RobotNameError, Robots};
pub use scope::ScopeError;
pub(crate) use scope::Scopes;
pub use throttle::FailedAttempts;
pub(crate) use token::{Issued, LIFETIME};

use crate::{config::Config, error::Error, route::Route, store::paths::Paths};
use known_robots::KnownRobots;
use throttle::Throttle;
use token::TokenKey;

/// The name of whoever shows nothing.
const ANONYMOUS: &str = "anonymous";

/// Asks for a name and a secret. For where a token cannot be fetched, or is about to be.
const BASIC_CHALLENGE: &str = "Basic realm=\"mergeyard\", charset=\"UTF-8\"";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An unknown account and a wrong secret are one answer, so that names cannot be tried out.
    #[error("authentication required: sign in with the name and secret of an account of this registry")]
    Unknown,
    #[error("the account `{account}` has expired: ask for a new secret")]
    Expired { account: String },
    /// Its time is over, its account or secret is gone, or it was never signed here.
    #[error("the token is not valid, or no longer: fetch another one with your name and secret")]
    Token,
    /// The account may, but the token was not fetched for this.
    #[error("the token of `{account}` is not for this: fetch one for the scope in WWW-Authenticate")]
    Scope { account: String },
    #[error("too many requests: wait {seconds} seconds")]
    TooMany { seconds: u64 },
    /// What one may not read is answered as if it were not there.
    #[error("repository `{name}` does not exist, or `{account}` may not read it")]
    Hidden { account: String, name: ImageName },
    #[error("`{account}` may not {what} `{name}`: ask for the right on this repository")]
    Right { account: String, name: ImageName, what: &'static str },
    #[error("`{account}` does not operate this registry: use the name and secret of the one who does")]
    Operator { account: String },
}

/// All that decides who is let in to one registry.
pub(crate) struct Access {
    config: Arc<Config>,
    accounts: RwLock<HashMap<String, Arc<Account>>>,
    robots: KnownRobots,
    key: TokenKey,
    throttle: Throttle,
}

impl Access {
    pub(crate) fn open(paths: &Paths, config: &Arc<Config>) -> io::Result<Self> {
        Ok(Self {
            config: config.clone(),
            accounts: RwLock::default(),
            robots: KnownRobots::new(paths),
            key: TokenKey::open(paths)?,
            throttle: Throttle::new(&config.limits, DefaultClock::default()),
        })
    }

    pub(crate) fn set_accounts(&self, accounts: Vec<Account>) {
        let accounts = accounts.into_iter().map(|account| (account.name.clone(), Arc::new(account)));
        *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts.collect();
    }

    /// The one place where a request is let in.
    pub(crate) fn authorize(
        &self,
        request: &Parts,
        route: &Route,
        now: Timestamp,
    ) -> Result<Identity, Error> {
        let credentials = Credentials::of(&request.headers);
        let token = matches!(credentials, Credentials::Bearer(_));
        self.let_in(credentials, request, route, now).map_err(|denied| {
            let error = match denied {
                Denied::Hidden { .. }
                | Denied::Right { .. }
                | Denied::Operator { .. }
                | Denied::TooMany { .. } => {
                    return Error::Denied(denied);
                }
                Denied::Token | Denied::Expired { .. } if token => Some("invalid_token"),
                _ if token => Some("insufficient_scope"),
                _ => None,
            };
            let wanted = Scopes::wanted(&request.method, route, &request.uri);
            Error::Unauthorized { denied, challenge: challenge(request, &wanted, error) }
        })
    }

    fn let_in(
        &self,
        credentials: Credentials,
        request: &Parts,
        route: &Route,
        now: Timestamp,
    ) -> Result<Identity, Denied> {
        let identity = match credentials {
            // Engines decide by these answers whether to log in; who has a name, and was let in without
            // one, would take what is open to everybody for all there is.
            Credentials::None if matches!(route, Route::Base | Route::Catalog | Route::Upkeep(_)) => {
                return Err(Denied::Unknown);
            }
            Credentials::None => Identity::anonymous(&self.config),
            Credentials::Basic(login) => self.authenticate(login, address(request), now)?,
            Credentials::Bearer(token) => self.holder(&token, now)?,
            Credentials::Unreadable => return Err(Denied::Unknown),
        };
        let identity = self.count(identity, request)?;
        permit(&identity, request, route)?;
        Ok(identity)
    }

    /// Who asks for a token; nobody in particular only where there is something for everybody.
    pub(crate) fn login(&self, request: &Parts, now: Timestamp) -> Result<Identity, Error> {
        let open = self.config.repositories.iter().any(|repository| repository.rules.anonymous_pull);
        let identity = match Credentials::of(&request.headers) {
            Credentials::Basic(login) => self.authenticate(login, address(request), now),
            Credentials::None if open => Ok(Identity::anonymous(&self.config)),
            _ => Err(Denied::Unknown),
        };
        let counted = identity.and_then(|identity| self.count(identity, request));
        counted.map_err(|denied| match denied {
            Denied::TooMany { .. } => Error::Denied(denied),
            _ => Error::Unauthorized { denied, challenge: BASIC_CHALLENGE.to_owned() },
        })
    }

    /// As [`Access::login`], with the name and secret out of a form.
    pub(crate) fn login_as(&self, login: Login, request: &Parts, now: Timestamp) -> Result<Identity, Denied> {
        self.count(self.authenticate(login, address(request), now)?, request)
    }

    fn count(&self, identity: Identity, request: &Parts) -> Result<Identity, Denied> {
        self.throttle.request(&identity, address(request)).map_err(too_many)?;
        Ok(identity)
    }

    pub(crate) fn issue(&self, identity: &Identity, asked: &Scopes, now: Timestamp) -> io::Result<Issued> {
        self.key.issue(identity, asked, now)
    }

    fn authenticate(
        &self,
        login: Login,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Identity, Denied> {
        let Login { name, secret } = login;
        let given = SecretHash::of(&secret);
        let account = self.account(&name);
        // An unknown name is compared too, with a hash nothing has, so that both take the same time.
        let expected = account.as_ref().map_or(&SecretHash::NOBODY, |account| &account.secret);
        let matches = expected.matches(&given);
        let Some(account) = account.filter(|_| matches) else {
            self.throttle.failed_login(address).map_err(too_many)?;
            return Err(Denied::Unknown);
        };
        self.current(account, now)
    }

    /// The account a token stands for, as it is now, held to what the token was fetched for.
    fn holder(&self, token: &Secret, now: Timestamp) -> Result<Identity, Denied> {
        let claimed = self.key.claimed(token, now).ok_or(Denied::Token)?;
        let identity = match claimed.account.as_str() {
            ANONYMOUS => Identity::anonymous(&self.config),
            name => self.current(self.account(name).ok_or(Denied::Token)?, now)?,
        };
        if identity.generation() != claimed.generation {
            return Err(Denied::Token);
        }
        Ok(identity.limited_to(claimed.scopes))
    }

    /// The server's own accounts come first, whatever a file of robots says.
    fn account(&self, name: &str) -> Option<Arc<Account>> {
        let own = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let robot = self.robots.get(name);
        own.or(robot)
    }

    fn current(&self, account: Arc<Account>, now: Timestamp) -> Result<Identity, Denied> {
        match account.expires {
            Some(end) if end <= now => Err(Denied::Expired { account: account.name.clone() }),
            _ => Ok(Identity::account(account, &self.config)),
        }
    }
}

/// First what the account may, then what its token covers: a client is only sent for another token
/// where that can help.
fn permit(identity: &Identity, request: &Parts, route: &Route) -> Result<(), Denied> {
    let beyond_token = || Err(Denied::Scope { account: identity.name.clone() });
    let Some(name) = route.name() else {
        return match route {
            Route::Catalog if !identity.covers_catalog() => beyond_token(),
            Route::Upkeep(_) if !identity.is_operator() => {
                Err(Denied::Operator { account: identity.name.clone() })
            }
            _ => Ok(()),
        };
    };
    let right = right_for(&request.method, route);
    if !identity.holds(right, name) {
        return Err(refusal(identity, right, name));
    }
    // A blob the account may not read is not mounted, but uploaded; one it may, it is mounted.
    let source = scope::mount_source(&request.method, route, &request.uri);
    let source = source.filter(|source| identity.holds(Right::Pull, source));
    if !identity.covers(right, name) || source.is_some_and(|source| !identity.covers(Right::Pull, &source)) {
        return beyond_token();
    }
    Ok(())
}

fn refusal(identity: &Identity, right: Right, name: &ImageName) -> Denied {
    // Nobody in particular may still become somebody, who may.
    if identity.is_anonymous() {
        return Denied::Unknown;
    }
    let (account, name) = (identity.name.clone(), name.clone());
    match right {
        Right::Pull => Denied::Hidden { account, name },
        Right::Push => Denied::Right { account, name, what: "push to" },
        Right::Delete => Denied::Right { account, name, what: "delete from" },
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

/// Sends the client for a token, to the name under which it reached this server: it is the one
/// name that is known to lead here. Without a usable one, a name and a secret are asked for.
fn challenge(request: &Parts, wanted: &Scopes, error: Option<&str>) -> String {
    let header = || request.headers.get(header::HOST)?.to_str().ok();
    let host = request.uri.authority().map(|authority| authority.as_str()).or_else(header);
    let Some(host) = host.and_then(|host| host.parse::<RegistryHost>().ok()) else {
        return BASIC_CHALLENGE.to_owned();
    };
    let mut challenge = format!("Bearer realm=\"https://{host}/token\",service=\"{host}\"");
    if !wanted.is_empty() {
        challenge += &format!(",scope=\"{wanted}\"");
    }
    if let Some(error) = error {
        challenge += &format!(",error=\"{error}\"");
    }
    challenge
}

/// The peer; unknown where requests do not come over a network.
fn address(request: &Parts) -> Option<IpAddr> {
    request.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
}

fn too_many(wait: Duration) -> Denied {
    Denied::TooMany { seconds: wait.as_secs() + 1 }
}
