//! An image as an engine loads it: one layer, its configuration, and a table of both.

use std::{io, path::Path};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Program;
use crate::gateway;

/// Where the program lies in the image.
pub(in crate::rollout) const PROGRAM: &str = "/mergeyard";

/// Where its libraries lie; the image's environment sends the loader there.
const LIBRARIES: &str = "/lib";

/// Nobody in particular, as Debian numbers it.
const NOBODY: u64 = 65534;

pub(super) struct Archive {
    /// With a tag that is made of the content.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Archive {
    pub(super) fn of(repository: &str, program: &Program) -> io::Result<Self> {
        let layer = layer(program)?;
        let configuration = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": [PROGRAM, "gateway"],
                "Env": [format!("LD_LIBRARY_PATH={LIBRARIES}")],
                "User": format!("{NOBODY}:{NOBODY}"),
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
        });
        let configuration = serde_json::to_vec(&configuration)?;
        let digest = hex(&configuration);
        let name = format!("{repository}:{}", &digest[..12]);
        let config_file = format!("{digest}.json");
        let table = json!([{ "Config": config_file, "RepoTags": [name], "Layers": ["layer.tar"] }]);
        let mut archive = tar::Builder::new(Vec::with_capacity(layer.len() + (64 << 10)));
        file(&mut archive, &config_file, 0o644, &configuration)?;
        file(&mut archive, "layer.tar", 0o644, &layer)?;
        file(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&table)?)?;
        Ok(Self { name, bytes: archive.into_inner()? })
    }
}

/// This machine's, as images call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer(program: &Program) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::with_capacity(program.bytes.len()));
    file(&mut layer, within(PROGRAM), 0o755, &program.bytes)?;
    // A volume that is mounted there for the first time takes over whose it is.
    folder(&mut layer, within(gateway::FOLDER), NOBODY, 0o700)?;
    file(&mut layer, "etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    if let Some((path, bytes)) = &program.loader {
        file(&mut layer, within(&path.to_string_lossy()), 0o755, bytes)?;
    }
    for (name, bytes) in &program.libraries {
        let path = Path::new(within(LIBRARIES)).join(name);
        file(&mut layer, &path.to_string_lossy(), 0o755, bytes)?;
    }
    layer.into_inner()
}

fn within(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn file(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(0, mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

fn folder(archive: &mut tar::Builder<Vec<u8>>, path: &str, owner: u64, mode: u32) -> io::Result<()> {
    let mut header = header(owner, mode);
    header.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut header, format!("{path}/"), io::empty())
}

/// Without a time, and of a fixed owner: nothing but the content tells two images apart.
fn header(owner: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_makes_the_same_image() {
        let program = |text: &str| Program {
            bytes: text.as_bytes().to_vec(),
            loader: Some(("/lib64/ld.so".into(), b"loader".to_vec())),
            libraries: [("libc.so.6".to_owned(), b"c".to_vec())].into(),
        };
        let made = |text: &str| Archive::of("a/gateway", &program(text)).unwrap();
        let (first, again, other) = (made("one"), made("one"), made("two"));
        assert!(first.bytes == again.bytes && first.name == again.name);
        assert!(first.name.starts_with("a/gateway:") && first.name != other.name);
    }
}
