//! What the language's documentation shows is true: each of its pipelines reads without a word.

use mergeyard_plan::spec::{self, Limits};

#[test]
fn every_pipeline_of_the_documentation_reads() {
    let text = include_str!("../../../README.md");
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 7, "only {} blocks were found", blocks.len());
    for block in blocks {
        // A part of a file is shown without its steps.
        let whole = match block.contains("steps:") {
            true => block.to_owned(),
            false => format!("{block}steps: [{{name: a, image: alpine, commands: [ls]}}]\n"),
        };
        let said: Vec<String> = spec::matrix("README.md", &whole, &Limits::DEFAULT)
            .err()
            .into_iter()
            .flatten()
            .chain(spec::read("README.md", &whole, &Limits::DEFAULT).findings)
            .map(|finding| finding.render(&whole))
            .collect();
        assert_eq!(said, [""; 0], "{whole}");
    }
}
