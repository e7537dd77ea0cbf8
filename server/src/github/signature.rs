//! Proof that a webhook was sent by someone who knows the secret.
//!
//! GitHub signs the bytes of the body, not what they mean ("Validating webhook
//! deliveries"), so the signature is checked over exactly what arrived and before anything
//! is parsed: whoever does not know the secret reaches no parser.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use mergeyard_types::Secret;
use sha2::Sha256;

pub const HEADER: &str = "x-hub-signature-256";
const SHA1_HEADER: &str = "x-hub-signature";
const PREFIX: &str = "sha256=";

/// Why a delivery is not believed. None of them says what the right signature would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("no webhook secret is configured for this repository: set github.webhook_secret")]
    NoSecret,
    #[error("the header X-Hub-Signature-256 is missing: set a secret in the webhook's settings")]
    Missing,
    #[error("the header X-Hub-Signature-256 is empty")]
    Empty,
    #[error("the header X-Hub-Signature-256 is there more than once")]
    Duplicated,
    #[error("the delivery is signed with SHA-1 only: send X-Hub-Signature-256")]
    Sha1Only,
    #[error("the header X-Hub-Signature-256 does not begin with `sha256=`")]
    Scheme,
    #[error("the signature must have 64 hexadecimal digits")]
    Length,
    #[error("the signature must be lower-case hexadecimal digits")]
    NotHex,
    #[error(
        "the signature is not that of this body: the webhook's secret is another one, or the body was changed"
    )]
    Mismatch,
}

/// The value of the header `X-Hub-Signature-256` for this body.
pub fn sign(secret: &Secret, body: &[u8]) -> String {
    format!("{PREFIX}{}", hex::encode(mac(secret, body).finalize().into_bytes()))
}

/// Which of the secrets signed the body. More than one is valid while a secret is being
/// changed; all of them are tried, so that time does not tell which one is in use.
pub fn verify(secrets: &[Secret], body: &[u8], headers: &HeaderMap) -> Result<usize, SignatureError> {
    if secrets.iter().all(|secret| secret.expose().is_empty()) {
        return Err(SignatureError::NoSecret);
    }
    let signature = claimed(headers)?;
    let mut signer = None;
    for (index, secret) in secrets.iter().enumerate() {
        let right = mac(secret, body).verify_slice(&signature).is_ok();
        if right && !secret.expose().is_empty() && signer.is_none() {
            signer = Some(index);
        }
    }
    signer.ok_or(SignatureError::Mismatch)
}

fn claimed(headers: &HeaderMap) -> Result<[u8; 32], SignatureError> {
    let mut values = headers.get_all(HEADER).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(SignatureError::Duplicated),
        (None, _) if headers.contains_key(SHA1_HEADER) => return Err(SignatureError::Sha1Only),
        (None, _) => return Err(SignatureError::Missing),
    };
    if value.is_empty() {
        return Err(SignatureError::Empty);
    }
    if value.starts_with(b"sha1=") {
        return Err(SignatureError::Sha1Only);
    }
    let digits = value.strip_prefix(PREFIX.as_bytes()).ok_or(SignatureError::Scheme)?;
    if digits.len() != 64 {
        return Err(SignatureError::Length);
    }
    if digits.iter().any(u8::is_ascii_uppercase) {
        return Err(SignatureError::NotHex);
    }
    let mut signature = [0; 32];
    hex::decode_to_slice(digits, &mut signature).map_err(|_| SignatureError::NotHex)?;
    Ok(signature)
}

fn mac(secret: &Secret, body: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of every length");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of GitHub's "Validating webhook deliveries".
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secrets(values: &[&str]) -> Vec<Secret> {
        values.iter().map(|value| Secret::new(*value)).collect()
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_documented_example_is_accepted_and_reproduced() {
        assert_eq!(verify(&secrets(&[SECRET]), BODY, &headers(&[SIGNATURE])), Ok(0));
        assert_eq!(sign(&Secret::new(SECRET), BODY), SIGNATURE);
    }

    #[test]
    fn during_a_rotation_both_secrets_are_good_and_afterwards_one() {
        let signed = headers(&[SIGNATURE]);
        assert_eq!(verify(&secrets(&["new", SECRET]), BODY, &signed), Ok(1));
        assert_eq!(verify(&secrets(&["new"]), BODY, &signed), Err(SignatureError::Mismatch));
    }

    #[test]
    fn an_empty_secret_accepts_nothing() {
        let forged = headers(&[&sign(&Secret::new(""), BODY)]);
        assert_eq!(verify(&[], BODY, &forged), Err(SignatureError::NoSecret));
        assert_eq!(verify(&secrets(&[""]), BODY, &forged), Err(SignatureError::NoSecret));
        assert_eq!(verify(&secrets(&["", SECRET]), BODY, &forged), Err(SignatureError::Mismatch));
    }

    #[test]
    fn every_other_form_of_the_header_is_refused_with_its_reason() {
        let digits = &SIGNATURE[7..];
        for (values, reason) in [
            (vec![], SignatureError::Missing),
            (vec![""], SignatureError::Empty),
            (vec!["sha1=7571 "], SignatureError::Sha1Only),
            (vec![digits], SignatureError::Scheme),
            (vec!["SHA256=00"], SignatureError::Scheme),
            (vec!["sha256="], SignatureError::Length),
            (vec![&SIGNATURE[..70]], SignatureError::Length),
            (vec![&format!("{SIGNATURE}0")], SignatureError::Length),
            (vec![&format!("sha256={}zz", &digits[..62])], SignatureError::NotHex),
            (vec![&format!("sha256={}", digits.to_uppercase())], SignatureError::NotHex),
            (vec![SIGNATURE, SIGNATURE], SignatureError::Duplicated),
        ] {
            let answer = verify(&secrets(&[SECRET]), BODY, &headers(&values));
            assert_eq!(answer, Err(reason), "{values:?}");
        }
        let mut old = HeaderMap::new();
        old.insert(SHA1_HEADER, "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59".parse().unwrap());
        assert_eq!(verify(&secrets(&[SECRET]), BODY, &old), Err(SignatureError::Sha1Only));
    }

    #[test]
    fn json_written_anew_does_not_keep_its_signature() {
        let sent = br#"{"b": 1, "a": 2}"#;
        let signed = headers(&[&sign(&Secret::new(SECRET), sent)]);
        let value: serde_json::Value = serde_json::from_slice(sent).unwrap();
        let again = serde_json::to_vec(&value).unwrap();
        assert_eq!(verify(&secrets(&[SECRET]), sent, &signed), Ok(0));
        assert_eq!(verify(&secrets(&[SECRET]), &again, &signed), Err(SignatureError::Mismatch));
    }
}
