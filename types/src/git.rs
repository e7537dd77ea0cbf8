//! Names and object ids of git and of the places git repositories live.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a git object id: it must be 40 lower-case hexadecimal digits")]
pub struct ShaError(String);

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 20]);

        impl $name {
            pub const fn new(bytes: [u8; 20]) -> Self {
                Self(bytes)
            }

            pub fn bytes(&self) -> &[u8; 20] {
                &self.0
            }

            /// The first eight digits, enough for a person.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }

            /// Git writes "no object" as all zeros, for example in the push of a deletion.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 20]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ShaError;

            fn from_str(text: &str) -> Result<Self, ShaError> {
                let mut bytes = [0; 20];
                let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
                    return Err(ShaError(text.chars().take(80).collect()));
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

object_id!(
    /// A commit.
    CommitSha
);
object_id!(
    /// A tree: two folders with the same id hold the same bytes.
    TreeId
);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {why}")]
pub struct NameError {
    pub what: &'static str,
    pub text: String,
    pub why: &'static str,
}

fn refuse(what: &'static str, text: &str, why: &'static str) -> NameError {
    let text = text.chars().take(80).flat_map(char::escape_debug).collect();
    NameError { what, text, why }
}

/// `owner/name`, as GitHub writes `full_name`. Deeper paths (`group/sub/name`) exist on
/// other git servers and are allowed; the owner is then everything before the last `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(String);

impl RepoName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn owner(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(owner, _)| owner)
    }

    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl FromStr for RepoName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "repository name";
        if text.len() > 200 {
            return Err(refuse(WHAT, text, "it is longer than 200 characters"));
        }
        if !text.contains('/') {
            return Err(refuse(WHAT, text, "it must read `owner/name`"));
        }
        for part in text.split('/') {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if part.is_empty() || !part.bytes().all(plain) {
                return Err(refuse(WHAT, text, "each part must be letters, digits, `-`, `_` or `.`"));
            }
            if part.starts_with('-') || part.chars().all(|c| c == '.') {
                return Err(refuse(WHAT, text, "no part may begin with `-` or be only dots"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// A full reference name such as `refs/heads/develop`, by the rules of git-check-ref-format(1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitRef(String);

impl GitRef {
    pub fn branch(name: &str) -> Result<Self, NameError> {
        format!("refs/heads/{name}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The branch's name when this is a branch.
    pub fn branch_name(&self) -> Option<&str> {
        self.0.strip_prefix("refs/heads/")
    }

    pub fn tag_name(&self) -> Option<&str> {
        self.0.strip_prefix("refs/tags/")
    }
}

impl FromStr for GitRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "git reference";
        let why = if text.len() > 255 {
            "it is longer than 255 bytes"
        } else if !text.starts_with("refs/") {
            "it must begin with `refs/`"
        } else if text.ends_with('/') || text.ends_with('.') || text.contains("//") {
            "a part is empty or it ends with a dot"
        } else if text.contains("..") || text.contains("@{") {
            "`..` and `@{` have a meaning of their own in git"
        } else if text.bytes().any(|b| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b)) {
            "it has a blank, a control character or one of `~^:?*[\\`"
        } else if text.split('/').any(|p| p.starts_with('.') || p.starts_with('-') || p.ends_with(".lock")) {
            "no part may begin with `.` or `-` or end with `.lock`"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(refuse(WHAT, text, why))
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}
pub(crate) use text_form;

text_form!(RepoName);
text_form!(GitRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_forty_lower_case_digits_and_nothing_else() {
        let good = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(good.parse::<CommitSha>().unwrap().to_string(), good);
        for bad in ["", "-n", "HEAD", "0123", &good.to_uppercase(), &format!("{good}0"), &format!("{good}\n")]
        {
            assert!(bad.parse::<CommitSha>().is_err(), "{bad:?} was taken for a commit");
        }
    }

    #[test]
    fn repository_names_cannot_climb_or_look_like_options() {
        assert_eq!("acme/clock".parse::<RepoName>().unwrap().name(), "clock");
        assert_eq!("group/sub/clock".parse::<RepoName>().unwrap().owner(), "group/sub");
        for bad in [
            "clock",
            "/clock",
            "acme/",
            "acme/..",
            "-o/clock",
            "acme/-x",
            "a b/c",
            "acme/cl\nock",
            "acme//x",
            "ext::sh/x",
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad:?} was taken for a repository");
        }
    }

    #[test]
    fn references_follow_gits_own_rules() {
        assert_eq!("refs/heads/feature/x".parse::<GitRef>().unwrap().branch_name(), Some("feature/x"));
        for bad in [
            "develop",
            "refs/heads/-x",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/x.lock",
            "refs/heads/",
            "refs/heads/a\nb",
        ] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad:?} was taken for a reference");
        }
    }
}
