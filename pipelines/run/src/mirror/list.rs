//! The list of packages, as the commit has it.

use mergeyard_plan::{
    finding::{Finding, Level},
    package_list::PackageList,
};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob},
};

/// The entries of `file`. What is odd about it is said in the log, what is wrong ends the step.
pub(super) async fn packages(
    docker: &Docker,
    job: &StepJob,
    file: &str,
    cx: &StepContext,
) -> Result<Vec<String>, StepFault> {
    let StepJob { repo, commit, hints, remote, .. } = job;
    let section = cx.log.section(format!("fetch {repo} at {}", commit.short())).await;
    let commit = docker.git.fetch(repo, remote, *commit, hints, &cx.cancel).await?;
    section.finish().await;
    let bytes = commit.required(file, "a list of packages").await?;
    let read = match file.ends_with(".json") {
        true => PackageList::from_json(file, &bytes),
        false => PackageList::from_text(file, &bytes),
    };
    let findings = match &read {
        Ok(list) => &list.warnings,
        Err(errors) => errors,
    };
    for finding in findings {
        cx.log.note(&said(finding)).await;
    }
    let first = |errors: Vec<Finding>| {
        errors.into_iter().find(|finding| finding.level == Level::Error).map(|finding| finding.to_string())
    };
    let list = read
        .map_err(|errors| StepFault::Failure(first(errors).unwrap_or_else(|| format!("{file} is wrong"))))?;
    Ok(list.packages.iter().map(ToString::to_string).collect())
}

fn said(finding: &Finding) -> String {
    match finding.level {
        Level::Warning => format!("warning: {finding}"),
        Level::Error => finding.to_string(),
    }
}
