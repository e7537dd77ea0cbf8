//! How much of a pipeline file is read at most.
//!
//! Anybody who can open a pull request writes these files, so nothing about them is taken on
//! trust: whatever grows with the file has a number here, and a file beyond it is refused with
//! a finding that names the number.

/// The defaults are far above what people write: the largest pipelines in the open have a
/// hundred steps in some 60 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file, before parsing: the cost of everything that looks at each character.
    pub file_bytes: usize,
    /// Values of one file after aliases and merge keys are replaced by what they stand for. This
    /// is what stops ten lines of aliases from becoming a billion values.
    pub nodes: usize,
    /// Bytes of text in those values: one long text under many aliases costs memory, not values.
    pub text_bytes: usize,
    /// Nesting, after aliases. Everything that walks a file does so recursively; this bounds the
    /// stack.
    pub depth: usize,
    /// Characters of one value. A longer script belongs into the repository.
    pub string_length: usize,
    /// Steps of one workflow: each becomes a row, a container and a line on a page.
    pub steps: usize,
    /// Services of one workflow; they all run at the same time.
    pub services: usize,
    /// Points of a matrix: each is a workflow with all its steps.
    pub matrix_points: usize,
    /// Files that one file includes, each a read of the repository.
    pub includes: usize,
    /// Attempts after the first that `retry` may ask for.
    pub retries: u32,
    /// What is told about one file. People repair the first few; the rest is memory and pages.
    pub findings: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        file_bytes: 512 * 1024,
        nodes: 50_000,
        text_bytes: 4 * 1024 * 1024,
        depth: 32,
        string_length: 128 * 1024,
        steps: 500,
        services: 50,
        matrix_points: 100,
        includes: 20,
        retries: 10,
        findings: 100,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
