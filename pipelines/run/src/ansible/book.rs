//! The ledger's rows of one playbook: one for each image that it is given.

use std::collections::BTreeMap;

use mergeyard_types::{DeploymentId, Digest, ImageName, StepId, TargetName};

use crate::{
    StepFault,
    executor::StepContext,
    ledger::{Intent, Verdict},
};

pub(super) type Images = BTreeMap<ImageName, Digest>;

/// Deployments that were begun, and are ended together.
pub(super) struct Book<'a> {
    cx: &'a StepContext,
    rows: Vec<Row>,
}

struct Row {
    deployment: DeploymentId,
    image: ImageName,
    digest: Digest,
    before: Option<Digest>,
}

impl<'a> Book<'a> {
    /// Durable when this returns.
    pub(super) async fn open(
        cx: &'a StepContext,
        step: StepId,
        target: &TargetName,
        images: &Images,
    ) -> Result<Self, StepFault> {
        let mut rows = Vec::new();
        for (image, &digest) in images {
            let service = image.to_string();
            let before = cx.ledger.live(target, &service).await?;
            let (target, image) = (target.clone(), image.clone());
            let intent = Intent { step, target, service, image: Some(image.clone()), digest, before };
            let deployment = cx.ledger.begin(intent).await?;
            rows.push(Row { deployment, image, digest, before });
        }
        Ok(Self { cx, rows })
    }

    /// All images as they were, when any was another. One that was not there before stays what it is
    /// now, because a playbook cannot be given less.
    pub(super) fn before(&self) -> Option<Images> {
        let differs = |row: &Row| row.before.is_some_and(|before| before != row.digest);
        let then = |row: &Row| (row.image.clone(), row.before.unwrap_or(row.digest));
        self.rows.iter().any(differs).then(|| self.rows.iter().map(then).collect())
    }

    pub(super) async fn healthy(&self, said: &str) -> Result<(), StepFault> {
        self.end(|_| Verdict::Healthy { said: said.to_owned() }).await
    }

    pub(super) async fn failed(&self, why: &str) -> Result<(), StepFault> {
        self.end(|_| Verdict::Failed { why: why.to_owned() }).await
    }

    pub(super) async fn rolled_back(&self, why: &str) -> Result<(), StepFault> {
        let why = why.to_owned();
        self.end(|row| match row.before {
            Some(before) => Verdict::RolledBack { why: why.clone(), to: Some(before) },
            None => Verdict::Failed { why: why.clone() },
        })
        .await
    }

    async fn end(&self, verdict: impl Fn(&Row) -> Verdict) -> Result<(), StepFault> {
        for row in &self.rows {
            self.cx.ledger.end(row.deployment, verdict(row)).await?;
        }
        Ok(())
    }
}

/// `clock-backend@sha256:0123…` for a person.
pub(super) fn plain(images: &Images) -> String {
    let each = images.iter().map(|(name, digest)| format!("{name}@{}", digest.short()));
    each.collect::<Vec<_>>().join(", ")
}
