//! Typed row ids, so that a step is never looked up where a run is meant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! row_id {
    ($name:ident, $prefix:literal) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

row_id!(RunId, "run-");
row_id!(WorkflowId, "workflow-");
row_id!(StepId, "step-");
row_id!(EffectId, "effect-");
row_id!(ImageId, "image-");
row_id!(DeploymentId, "deployment-");

/// What the sender calls one delivery: GitHub's `X-GitHub-Delivery`. A redelivery carries
/// the same one, which is what makes accepting it twice harmless.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a delivery id: it must be 1 to 100 letters, digits or `-`, as GitHub's GUIDs are")]
pub struct DeliveryIdError;

impl DeliveryId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeliveryId {
    type Err = DeliveryIdError;

    fn from_str(text: &str) -> Result<Self, DeliveryIdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match text.len() {
            1..=100 if text.bytes().all(plain) => Ok(Self(text.to_owned())),
            _ => Err(DeliveryIdError),
        }
    }
}

crate::git::text_form!(DeliveryId);
