//! Runs that are asked for here, by a schedule or a person, as deliveries of their own.
//!
//! They go the way of every other delivery: durable first, then decided, visible with a
//! verdict, and replayable.

use mergeyard_plan::event::Asked;
use mergeyard_types::{DeliveryId, Timestamp};
use sha2::{Digest, Sha256};

use crate::{
    payload,
    store::{Delivery, Source},
};

/// The delivery of a wish. One wish has one id, so that asking twice is asking once.
pub fn delivery(asked: &Asked, now: Timestamp) -> Delivery {
    let body = serde_json::to_vec(asked).expect("a wish has no maps with keys that JSON cannot hold");
    let kind = asked.kind.event().as_str();
    let about =
        format!("{}\n{}\n{}", asked.repository.as_str().to_ascii_lowercase(), asked.name, asked.occasion);
    let digest = hex::encode(&Sha256::digest(about)[..16]);
    let id: DeliveryId = format!("{kind}-{digest}").parse().expect("letters, digits and a dash");
    Delivery {
        id,
        source: Source::Mergeyard,
        event: kind.to_owned(),
        content_type: "application/json".to_owned(),
        repo: Some(asked.repository.clone()),
        body_size: body.len(),
        body: payload::compress(&body),
        received: now,
        ignored: None,
    }
}
