//! Tokens: short-lived proofs that clients fetch with a secret and show in its place.
//!
//! The program that signs is the one that verifies, so one symmetric key is enough. A token names
//! an account and what it was asked for; what the account may is looked up again on each request.
//! Nothing is kept about tokens: one that outlives its account, or the secret it was fetched with,
//! names something that is no longer there.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use mergeyard_types::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

use super::{account::Identity, scope::Scopes};
use crate::{durable, store::paths::Paths};

/// Long enough for the requests of one push or pull, short enough to be worth little when it
/// leaks. Clients fetch the next one by themselves.
pub(crate) const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Tokens that are signed with this key for any other purpose are not for here.
const AUDIENCE: &str = "mergeyard-registry";

const KEY_BYTES: usize = 32;

pub(super) struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

/// A token and what its client is told about it.
pub(crate) struct Issued {
    pub(crate) token: Secret,
    pub(crate) scopes: Scopes,
    pub(crate) at: Timestamp,
}

/// What a token says, once its signature and its time are good.
pub(super) struct Claimed {
    pub(super) account: String,
    pub(super) generation: String,
    pub(super) scopes: Scopes,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    sub: String,
    /// Which secret of the account it was fetched with.
    generation: String,
    scope: String,
    iat: u64,
    exp: u64,
}

impl TokenKey {
    /// Reads the key, making it first where there is none. Without the file all tokens are void.
    pub(super) fn open(paths: &Paths) -> io::Result<Self> {
        let path = paths.token_key();
        let key = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::write(&paths.incoming(), &path, &random()?, 0o600)?;
                // A command may have been faster; what lies there now is what holds.
                read(&path)?
            }
            read => read?,
        };
        Ok(Self::new(&key))
    }

    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        // The library would ask the system's clock; `claimed` is told the time.
        validation.validate_exp = false;
        Self { encoding: EncodingKey::from_secret(key), decoding: DecodingKey::from_secret(key), validation }
    }

    /// A token for as much of what is asked for as the account may.
    pub(super) fn issue(&self, identity: &Identity, asked: &Scopes, now: Timestamp) -> io::Result<Issued> {
        let scopes = asked.granted_to(identity);
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub: identity.name.clone(),
            generation: identity.generation(),
            scope: scopes.to_string(),
            iat: seconds(now),
            exp: seconds(now.plus(LIFETIME)),
        };
        let token =
            encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).map_err(io::Error::other)?;
        Ok(Issued { token: Secret::new(token), scopes, at: now })
    }

    /// What the token claims; `None` when this registry did not sign it, or its time is over.
    pub(super) fn claimed(&self, token: &Secret, now: Timestamp) -> Option<Claimed> {
        let claims = decode::<Claims>(token.expose(), &self.decoding, &self.validation).ok()?.claims;
        if claims.exp <= seconds(now) {
            return None;
        }
        let scopes = Scopes::parse([claims.scope.as_str()]).ok()?;
        Some(Claimed { account: claims.sub, generation: claims.generation, scopes })
    }
}

/// Random bytes for keys and secrets.
pub(super) fn random() -> io::Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn read(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut bytes = Vec::with_capacity(KEY_BYTES);
    fs::File::open(path)?.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    bytes.try_into().map_err(|_| {
        let what =
            format!("{} is not a key of {KEY_BYTES} bytes; remove it, and another is made", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.0 / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn key() -> TokenKey {
        TokenKey::new(&[7; KEY_BYTES])
    }

    fn token(key: &TokenKey) -> Secret {
        let nobody = Identity::anonymous(&Arc::new(Config::default()));
        key.issue(&nobody, &Scopes::parse(["registry:catalog:*"]).unwrap(), NOW).unwrap().token
    }

    #[test]
    fn a_token_is_good_until_its_time_is_over_and_only_under_its_key() {
        let token = token(&key());
        let claimed = key().claimed(&token, NOW).unwrap();
        assert_eq!(
            (claimed.account.as_str(), claimed.scopes.to_string()),
            ("anonymous", "registry:catalog:*".into())
        );
        let end = NOW.plus(LIFETIME);
        assert!(key().claimed(&token, Timestamp(end.0 - 1000)).is_some());
        assert!(key().claimed(&token, end).is_none());
        assert!(TokenKey::new(&[8; KEY_BYTES]).claimed(&token, NOW).is_none());
    }

    #[test]
    fn no_other_algorithm_and_no_other_audience_is_taken() {
        let (key, good) = (key(), token(&key()));
        let [_, claims, signature] = good.expose().split('.').collect::<Vec<_>>()[..] else { panic!() };
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS512"}"#, r#"{"alg":"RS256"}"#, "{}", ""] {
            let header = URL_SAFE_NO_PAD.encode(header);
            for forged in [format!("{header}.{claims}.{signature}"), format!("{header}.{claims}.")] {
                assert!(key.claimed(&Secret::new(forged), NOW).is_none());
            }
        }
        let claims = Claims {
            aud: "elsewhere".into(),
            sub: "anonymous".into(),
            generation: String::new(),
            scope: String::new(),
            iat: 0,
            exp: u64::MAX,
        };
        let other = encode(&Header::new(Algorithm::HS256), &claims, &key.encoding).unwrap();
        assert!(key.claimed(&Secret::new(other), NOW).is_none());
    }

    #[test]
    fn the_key_is_made_once_for_the_server_alone_and_a_broken_one_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        durable::create_directory(&paths.incoming()).unwrap();
        let token = token(&TokenKey::open(&paths).unwrap());
        assert!(TokenKey::open(&paths).unwrap().claimed(&token, NOW).is_some());
        assert_eq!(fs::metadata(paths.token_key()).unwrap().permissions().mode() & 0o777, 0o600);
        for broken in [&b""[..], &[1; 31], &[1; 33]] {
            fs::write(paths.token_key(), broken).unwrap();
            let error = TokenKey::open(&paths).err().unwrap().to_string();
            assert!(error.contains("token-key is not a key of 32 bytes; remove it"), "{error}");
        }
        fs::remove_file(paths.token_key()).unwrap();
        assert!(TokenKey::open(&paths).unwrap().claimed(&token, NOW).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_changed_token_is_good(
            text in "([A-Za-z0-9_-]{0,20}\\.){0,3}\\PC{0,20}", at in any::<prop::sample::Index>(), to in any::<u8>()
        ) {
            let key = key();
            prop_assert!(key.claimed(&Secret::new(text), NOW).is_none());
            let good = token(&key).expose().to_owned();
            let mut bytes = good.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = to;
            // The last character of a part may carry bits that base64 leaves unused.
            if let Ok(changed) = String::from_utf8(bytes)
                && changed != good
                && let Some(claimed) = key.claimed(&Secret::new(changed), NOW)
            {
                prop_assert_eq!(claimed.scopes.to_string(), "registry:catalog:*");
            }
        }
    }
}
