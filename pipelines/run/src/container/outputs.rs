//! What a step hands on to others: the lines `key=value` it wrote to the file `$CI_OUTPUT`.
//!
//! The file is in the workspace's volume beside the checkout, one for each attempt, and is read
//! back through the engine when the container has ended, so that it works with any image and with
//! an engine on another machine.

use std::{collections::BTreeMap, io::Read};

use bollard::{errors::Error, query_parameters::DownloadFromContainerOptionsBuilder};
use futures_util::StreamExt;

use crate::{StepFault, engine::Engine, log::LogSink};

/// The file as a whole: outputs are names and versions, not artifacts.
const MAX_BYTES: usize = 64 * 1024;

const MAX_OUTPUTS: usize = 100;

const MAX_KEY_BYTES: usize = 100;

/// What an archive adds around one file: its header, perhaps a long name, the padding and the end.
const ARCHIVE_BYTES: usize = 16 * 1024;

/// Where every step may write its file: below the workspace's base, writable for any user.
pub(crate) const DIRECTORY: &str = ".mergeyard";

/// What the step wrote, once it has ended well.
pub(super) async fn read_back(
    engine: &Engine,
    container: &str,
    path: &str,
    promised: &[String],
    log: &LogSink,
) -> Result<BTreeMap<String, String>, StepFault> {
    let outputs = match archive(engine, container, path).await? {
        Some(archive) => content(&archive).and_then(|text| parse(&text)).map_err(StepFault::Failure)?,
        None => BTreeMap::new(),
    };
    check(&outputs, promised, log).map_err(StepFault::Failure)?;
    Ok(outputs)
}

/// The file as the engine sends it, in an archive; `None` when there is none.
async fn archive(engine: &Engine, container: &str, path: &str) -> Result<Option<Vec<u8>>, StepFault> {
    let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
    let docker = engine.docker().await?;
    let mut chunks = docker.download_from_container(container, Some(options));
    let mut archive = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            chunk => archive.extend_from_slice(&engine.checked("read a step's outputs", chunk).await?),
        }
        if archive.len() > MAX_BYTES + ARCHIVE_BYTES {
            return Err(StepFault::Failure(too_large()));
        }
    }
    Ok(Some(archive))
}

fn content(archive: &[u8]) -> Result<String, String> {
    let broken = |_| "what was written to $CI_OUTPUT cannot be read".to_owned();
    let mut archive = tar::Archive::new(archive);
    let Some(file) = archive.entries().map_err(broken)?.next() else { return Ok(String::new()) };
    let file = file.map_err(broken)?;
    if file.header().entry_type() != tar::EntryType::Regular {
        return Err("$CI_OUTPUT is not a file any more; only write lines to it".to_owned());
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(broken)?;
    if text.len() > MAX_BYTES {
        return Err(too_large());
    }
    String::from_utf8(text).map_err(|_| "what was written to $CI_OUTPUT is not UTF-8 text".to_owned())
}

/// Of two lines with one key the later counts.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut outputs = BTreeMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: &str| format!("line {} of $CI_OUTPUT {why}", at + 1);
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("is not `key=value`"))?;
        if !is_key(key) {
            return Err(wrong(
                "has a key that is not a letter or `_` followed by letters, digits, `_` and `-`",
            ));
        }
        outputs.insert(key.to_owned(), value.to_owned());
        if outputs.len() > MAX_OUTPUTS {
            return Err(format!("more than {MAX_OUTPUTS} outputs were written to $CI_OUTPUT"));
        }
    }
    Ok(outputs)
}

fn is_key(key: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    key.len() <= MAX_KEY_BYTES
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(inside)
}

fn check(outputs: &BTreeMap<String, String>, promised: &[String], log: &LogSink) -> Result<(), String> {
    if let Some(missing) = promised.iter().find(|key| !outputs.contains_key(*key)) {
        return Err(format!(
            "the output `{missing}` is promised and was not written: write a line `{missing}=…` to $CI_OUTPUT"
        ));
    }
    // Outputs are kept and shown, which secrets must not be.
    match outputs.iter().find(|(_, value)| log.mask(value) != **value) {
        Some((key, _)) => Err(format!(
            "the output `{key}` has a secret in it, and outputs are shown: use `from_secret` where it is needed"
        )),
        None => Ok(()),
    }
}

fn too_large() -> String {
    format!(
        "more than {} KiB were written to $CI_OUTPUT; write files into the workspace instead",
        MAX_BYTES / 1024
    )
}

#[cfg(test)]
mod tests {
    use mergeyard_types::Secret;
    use proptest::prelude::*;

    use super::*;
    use crate::log::Masker;

    fn archived(kind: tar::EntryType, text: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "output", text).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn lines_become_outputs_and_the_later_of_two_counts() {
        let text = content(&archived(tar::EntryType::Regular, b"a=1\r\n\nb-c= x = y \na=2\n")).unwrap();
        let outputs = parse(&text).unwrap();
        let expected = [("a", "2"), ("b-c", " x = y ")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(outputs, BTreeMap::from(expected));
        assert_eq!(parse("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_no_output_is_refused_with_its_line() {
        assert_eq!(parse("a=1\nhello").unwrap_err(), "line 2 of $CI_OUTPUT is not `key=value`");
        for key in ["=", "1a=", "a b=", "é=", " a="] {
            assert!(parse(key).unwrap_err().starts_with("line 1 of $CI_OUTPUT has a key"), "{key}");
        }
        let many: String = (0..=MAX_OUTPUTS).map(|i| format!("k{i}=\n")).collect();
        assert!(parse(&many).unwrap_err().contains("more than 100"));
        let large = archived(tar::EntryType::Regular, &vec![b'x'; MAX_BYTES + 1]);
        assert!(content(&large).unwrap_err().contains("64 KiB"));
        assert!(content(&archived(tar::EntryType::Regular, b"\xff")).unwrap_err().contains("UTF-8"));
        assert!(content(&archived(tar::EntryType::Directory, b"")).unwrap_err().contains("not a file"));
    }

    #[test]
    fn a_promise_is_kept_and_a_secret_is_not_handed_on() {
        let (log, _lines) = LogSink::channel(Masker::new([&Secret::new("hunter22")]), 1 << 20);
        let outputs = parse("version=1\n").unwrap();
        assert_eq!(check(&outputs, &["version".to_owned()], &log), Ok(()));
        let missing = check(&outputs, &["digest".to_owned()], &log).unwrap_err();
        assert!(missing.starts_with("the output `digest` is promised and was not written"), "{missing}");
        let secret = check(&parse("a=x hunter22\n").unwrap(), &[], &log).unwrap_err();
        assert!(secret.contains("`a`") && !secret.contains("hunter22"), "{secret}");
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_there_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = content(&bytes).and_then(|text| parse(&text));
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
