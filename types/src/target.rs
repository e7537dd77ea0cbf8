//! Names of machines that runs deliver to.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::NameError;

/// A machine that the operator defined. It is part of file names, addresses of pages and GitHub's
/// environments, so it is as plain as a host name's label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetName(String);

impl TargetName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TargetName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = |why| {
            let text = text.chars().take(80).flat_map(char::escape_debug).collect();
            Err(NameError { what: "target name", text, why })
        };
        if text.is_empty() || text.len() > 63 {
            return refuse("it must have 1 to 63 characters");
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !text.bytes().all(plain) || text.starts_with('-') || text.ends_with('-') {
            return refuse("it must be lower-case letters, digits and `-`, as a host name's label is");
        }
        Ok(Self(text.to_owned()))
    }
}

crate::git::text_form!(TargetName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_named_as_a_host_is() {
        for good in ["clock-vm", "a", "10"] {
            assert_eq!(good.parse::<TargetName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "a;b", "../a", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<TargetName>().is_err(), "{bad}");
        }
    }
}
