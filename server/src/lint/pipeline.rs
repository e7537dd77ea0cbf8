//! Pipelines, checked by the reader that the planner uses.

use mergeyard_plan::finding::Finding;

use super::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    source.text().err().into_iter().collect()
}
