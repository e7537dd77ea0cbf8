//! What a repository gets without writing a pipeline file: ordinary files of the language,
//! compiled into the binary, that are read and planned like any other.

use serde_json::Value;

use crate::{
    decide::Candidate,
    spec::{self, At, Limits, Spanned, Workflow},
    workflows::{Source, SourcePoint},
};

/// The files and their texts.
pub const IMAGE: (&str, &str) = ("image.yml", include_str!("../../builtin/image.yml"));
pub const MIRROR: (&str, &str) = ("mirror.yml", include_str!("../../builtin/mirror.yml"));

/// Builds and publishes images: a workflow for each folder that asks for one. The words in the
/// file say when.
pub(crate) fn image(images: &[Candidate]) -> Source {
    let (file, text) = IMAGE;
    let spec::Read { workflow, findings } = spec::read(file, text, &Limits::DEFAULT);
    let of_folder = |image: &Candidate| SourcePoint {
        axis: Some(image.folder.clone()).filter(|folder| !folder.is_empty()),
        workflow: workflow.as_ref().map(|workflow| with_folder(workflow, &image.folder)),
        findings: findings.clone(),
        ..SourcePoint::default()
    };
    Source { file: file.to_owned(), points: images.iter().map(of_folder).collect(), ..Source::default() }
}

/// Makes a mirror hold what the commit's package list names.
pub(crate) fn mirror() -> Source {
    let (file, text) = MIRROR;
    let spec::Read { workflow, findings } = spec::read(file, text, &Limits::DEFAULT);
    let point = SourcePoint { workflow, findings, ..SourcePoint::default() };
    Source { file: file.to_owned(), points: vec![point], ..Source::default() }
}

/// Not by substitution: a folder may be called as it likes, and substitution is for text.
fn with_folder(workflow: &Workflow, folder: &str) -> Workflow {
    let mut workflow = workflow.clone();
    for step in workflow.steps.iter_mut().filter(|step| step.uses.is_some()) {
        let key = Spanned { value: "folder".to_owned(), at: At::default() };
        step.with.push((key, Value::from(folder)));
    }
    workflow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_pipeline_reads_without_a_finding() {
        let (file, text) = IMAGE;
        let spec::Read { workflow, findings } = spec::read(file, text, &Limits::DEFAULT);
        assert_eq!(findings, []);
        let workflow = workflow.unwrap();
        let events: Vec<&str> = workflow.when[0].event.iter().map(|event| event.as_str()).collect();
        assert_eq!(events, ["pull_request_merged", "push"]);
        let (file, text) = MIRROR;
        let spec::Read { workflow, findings } = spec::read(file, text, &Limits::DEFAULT);
        assert_eq!((workflow.unwrap().steps.len(), findings), (1, vec![]));
    }
}
