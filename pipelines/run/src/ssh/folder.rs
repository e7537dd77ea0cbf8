//! The private folder of an agent or a connection: sockets, and who is known.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::SshError;

/// The path of a Unix socket has at most 107 bytes, of which ssh takes 17 for a name of its own
/// while it makes one.
const MAX_BASE_BYTES: usize = 60;

pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Result<Self, SshError> {
        let base = base(std::env::temp_dir());
        let made = tempfile::Builder::new()
            .prefix("mergeyard-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&base);
        made.map(Self).map_err(|error| {
            SshError::Local(format!("no private folder can be made in {}: {error}", base.display()))
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, SshError> {
        let path = self.at(name);
        let written = std::fs::write(&path, text);
        written.map_err(|error| SshError::Local(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }
}

/// The usual folder, unless its name is too long, or means something in ssh's options.
fn base(usual: PathBuf) -> PathBuf {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    match usual.to_str() {
        Some(text) if text.len() <= MAX_BASE_BYTES && text.chars().all(plain) && usual.is_absolute() => usual,
        _ => "/tmp".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_room_for_their_names() {
        assert_eq!(base("/var/tmp".into()), Path::new("/var/tmp"));
        for unfit in ["/tmp/a b", "/tmp/%h", "tmp", &format!("/{}", "x".repeat(MAX_BASE_BYTES))] {
            assert_eq!(base(unfit.into()), Path::new("/tmp"), "{unfit}");
        }
    }
}
