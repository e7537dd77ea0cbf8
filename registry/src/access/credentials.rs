//! What a request's `Authorization` header says about who sends it.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use mergeyard_types::Secret;

/// Protects from decoding a header as long as a whole head may be. The longest token is half of it.
const HEADER_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(crate) enum Credentials {
    /// There is no such header.
    None,
    Basic(Login),
    Bearer(Secret),
    /// There is one that proves nothing; it is not taken for none.
    Unreadable,
}

/// A name and a secret that is claimed to be its.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) name: String,
    pub(crate) secret: Secret,
}

impl Credentials {
    /// A second such header is a trick.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Credentials::None,
            (Some(value), None) => value.to_str().ok().and_then(read).unwrap_or(Credentials::Unreadable),
            _ => Credentials::Unreadable,
        }
    }
}

fn read(value: &str) -> Option<Credentials> {
    let (scheme, rest) = value.split_once(' ').filter(|_| value.len() <= HEADER_BYTES)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Bearer(Secret::new(rest.trim())));
    }
    scheme.eq_ignore_ascii_case("basic").then(|| basic(rest))?.map(Credentials::Basic)
}

/// RFC 7617.
fn basic(encoded: &str) -> Option<Login> {
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, secret) = text.split_once(':')?;
    Some(Login { name: name.to_owned(), secret: Secret::new(secret) })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&[u8]]) -> Credentials {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        Credentials::of(&headers)
    }

    #[test]
    fn a_header_that_cannot_be_read_is_not_taken_for_none() {
        assert!(matches!(of(&[]), Credentials::None));
        for value in [&b""[..], b"Basic", b"Basic !!!", b"Basic cm9ib3Q=", b"Digest x", b"Bearer", b"\xff"] {
            assert!(matches!(of(&[value]), Credentials::Unreadable), "{value:?}");
        }
        let long = format!("Bearer {}", "x".repeat(HEADER_BYTES));
        assert!(matches!(of(&[long.as_bytes()]), Credentials::Unreadable));
        let good = b"basic cm9ib3Q6czplY3JldA==";
        assert!(matches!(of(&[good, good]), Credentials::Unreadable));
        let Credentials::Basic(login) = of(&[good]) else { panic!() };
        assert_eq!((login.name.as_str(), login.secret.expose()), ("robot", "s:ecret"));
        assert!(matches!(of(&[b"bEARER x.y.z"]), Credentials::Bearer(token) if token.expose() == "x.y.z"));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), scheme in "(basic |bearer |)") {
            let value = [scheme.as_bytes(), &bytes].concat();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
                prop_assert!(!matches!(Credentials::of(&headers), Credentials::None));
            }
        }
    }
}
