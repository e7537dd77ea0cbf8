//! A folder for one command, gone with it.

use std::path::{Path, PathBuf};

use uuid::Uuid;

pub(super) struct Home(PathBuf);

impl Home {
    pub(super) fn new(command: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("mergeyard-{command}-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
