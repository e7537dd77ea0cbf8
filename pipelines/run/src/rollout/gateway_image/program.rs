//! A program with all that the system needs to start it: its loader and its libraries.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio::process::Command;

/// Libraries that the C library opens by itself to find out addresses, before its version 2.34.
const RESOLVERS: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];

pub(super) struct Program {
    pub(super) bytes: Vec<u8>,
    /// `None`: it needs nobody to be started.
    pub(super) loader: Option<(PathBuf, Vec<u8>)>,
    /// By the names that the loader looks for.
    pub(super) libraries: BTreeMap<String, Vec<u8>>,
}

impl Program {
    pub(super) async fn read(path: &Path) -> Result<Self, String> {
        let mut bytes = read(path).await?;
        let loader = trim(&mut bytes).map_err(|why| format!("{}: {why}", path.display()))?;
        let Some(loader) = loader else {
            return Ok(Self { bytes, loader: None, libraries: BTreeMap::new() });
        };
        let mut libraries = BTreeMap::new();
        for (name, path) in needed(&loader, path).await? {
            if name == "libc.so.6" {
                for beside in RESOLVERS {
                    if let Ok(bytes) = tokio::fs::read(path.with_file_name(beside)).await {
                        libraries.insert(beside.to_owned(), bytes);
                    }
                }
            }
            libraries.insert(name, read(&path).await?);
        }
        let bytes_of_loader = read(&loader).await?;
        Ok(Self { bytes, loader: Some((loader, bytes_of_loader)), libraries })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Asks the loader itself what it would load: where it looks is its own business.
async fn needed(loader: &Path, program: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let output = Command::new(loader).arg("--list").arg(program).output().await;
    let output = output.map_err(|error| format!("{} cannot be run: {error}", loader.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} --list {}: {}", loader.display(), program.display(), why.trim()));
    }
    listed(&said)
}

/// `name => path (address)`. What is listed without a path is the kernel's, or the loader.
fn listed(said: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let pairs = said.lines().filter_map(|line| line.trim().split_once(" => "));
    pairs
        .map(|(name, rest)| match rest.rsplit_once(" (") {
            Some((path, _)) if path.starts_with('/') => {
                let name = Path::new(name).file_name().unwrap_or_default();
                Ok((name.to_string_lossy().into_owned(), PathBuf::from(path)))
            }
            _ => Err(format!("its library {name} is {rest}")),
        })
        .collect()
}

/// Cuts off what no program is started from, which in a debug build is most of it, and says which
/// loader starts it.
///
/// The file's own table of segments tells how far the kernel reads. Symbols and debug information
/// lie behind that, and the table of sections that leads to them is for linkers and debuggers.
fn trim(bytes: &mut Vec<u8>) -> Result<Option<PathBuf>, String> {
    const HEADER: usize = 64;
    const LOADER: u32 = 3;
    let is_ours = bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01");
    if !is_ours {
        return Err("it is no 64-bit little-endian ELF program".to_owned());
    }
    let broken = || "its ELF header leads outside of it".to_owned();
    let table = word(bytes, 32, 8).ok_or_else(broken)?;
    let (size, count) = (word(bytes, 54, 2).ok_or_else(broken)?, word(bytes, 56, 2).ok_or_else(broken)?);
    let mut end = table.saturating_add(size * count).max(HEADER);
    let mut loader = None;
    for at in (0..count).map(|number| table.saturating_add(number * size)) {
        let field = |offset: usize, width| word(bytes, at.saturating_add(offset), width).ok_or_else(broken);
        let (kind, offset, length) = (field(0, 4)?, field(8, 8)?, field(32, 8)?);
        let part_end = offset.saturating_add(length);
        let part = bytes.get(offset..part_end).ok_or_else(broken)?;
        end = end.max(part_end);
        if kind == LOADER as usize {
            let text = part.split(|byte| *byte == 0).next().unwrap_or_default();
            loader = Some(PathBuf::from(String::from_utf8_lossy(text).into_owned()));
        }
    }
    if end > bytes.len() {
        return Err(broken());
    }
    bytes.truncate(end);
    // Where the sections are, and how many.
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    Ok(loader)
}

fn word(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    usize::try_from(u64::from_le_bytes(word)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_lists_is_found_and_what_it_misses_is_named() {
        let said = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = vec![("libz.so.1".to_owned(), PathBuf::from("/lib/x86_64-linux-gnu/libz.so.1"))];
        assert_eq!(listed(said), Ok(found));
        assert_eq!(
            listed("\tlibz.so.1 => not found\n"),
            Err("its library libz.so.1 is not found".to_owned())
        );
    }

    #[tokio::test]
    async fn a_trimmed_program_is_smaller_and_still_runs() {
        let whole = std::env::current_exe().unwrap();
        let program = Program::read(&whole).await.unwrap();
        assert!(program.bytes.len() < std::fs::metadata(&whole).unwrap().len() as usize);
        assert!(program.libraries.contains_key("libc.so.6"), "{:?}", program.libraries.keys());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, &program.bytes).unwrap();
        // The loader maps it just as the kernel does.
        let mut run = Command::new(&program.loader.unwrap().0);
        let output = run.arg(&path).arg("--list").output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("a_trimmed_program"));
    }

    #[test]
    fn what_is_no_program_is_refused_and_never_panics() {
        let mut elf = std::fs::read(std::env::current_exe().unwrap()).unwrap()[..256].to_vec();
        for cut in 0..elf.len() {
            assert!(trim(&mut elf[..cut].to_vec()).is_err());
        }
        elf[32..40].fill(0xff);
        assert!(trim(&mut elf).is_err());
        assert!(trim(&mut b"#!/bin/sh\n".repeat(20)).is_err());
    }
}
