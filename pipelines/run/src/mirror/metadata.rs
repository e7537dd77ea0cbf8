//! What a repository says it has: `repomd.xml`, and the primary metadata that it names.

use std::{collections::HashMap, io::Read};

use flate2::read::MultiGzDecoder;
use mergeyard_types::Digest;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

/// All of a large distribution is a tenth of this; more is a bomb.
const MOST_METADATA: u64 = 1 << 30;

/// A file of the metadata.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) href: String,
    pub(super) digest: Digest,
}

/// One package as clients find it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) href: String,
    pub(super) size: u64,
}

/// Where `repomd.xml` says the list of packages is.
pub(super) fn primary(repomd: &[u8]) -> Result<Part, String> {
    let mut reader = Reader::from_reader(repomd);
    let (mut inside, mut at, mut href, mut digest) = (false, Vec::new(), None, None);
    loop {
        match event(&mut reader, &mut Vec::new())? {
            Event::Start(tag) => {
                if tag.local_name().as_ref() == b"data" {
                    inside = attribute(&tag, "type")?.as_deref() == Some("primary");
                }
                at = tag.local_name().as_ref().to_vec();
                if inside && at == b"location" {
                    href = attribute(&tag, "href")?;
                }
            }
            Event::Empty(tag) if inside && tag.local_name().as_ref() == b"location" => {
                href = attribute(&tag, "href")?;
            }
            Event::Text(text) if inside && at == b"checksum" => {
                let text = text.decode().map_err(|e| e.to_string())?;
                digest = Some(format!("sha256:{}", text.trim()).parse().map_err(|e| format!("{e}"))?);
            }
            Event::End(tag) => {
                inside &= tag.local_name().as_ref() != b"data";
                at.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (href, digest) {
        (Some(href), Some(digest)) => Ok(Part { href, digest }),
        _ => Err("it names no primary metadata".to_owned()),
    }
}

/// All packages, by `name-epoch:version-release.arch`.
pub(super) fn packages(primary: &[u8]) -> Result<HashMap<String, Listed>, String> {
    let mut text = Vec::new();
    let mut plain = MultiGzDecoder::new(primary).take(MOST_METADATA);
    plain.read_to_end(&mut text).map_err(|e| e.to_string())?;
    if plain.limit() == 0 {
        return Err(format!("it is larger than {MOST_METADATA} bytes"));
    }
    let mut reader = Reader::from_reader(&text[..]);
    let (mut all, mut one, mut at) = (HashMap::new(), Package::default(), Vec::new());
    loop {
        match event(&mut reader, &mut Vec::new())? {
            Event::Start(tag) => {
                at = tag.name().as_ref().to_vec();
                if at == b"package" {
                    one = Package::default();
                }
                one.take(&tag)?;
            }
            Event::Empty(tag) => one.take(&tag)?,
            Event::Text(text) => match at.as_slice() {
                b"name" => one.name += &text.decode().map_err(|e| e.to_string())?,
                b"arch" => one.arch += &text.decode().map_err(|e| e.to_string())?,
                _ => {}
            },
            Event::End(tag) => {
                if tag.name().as_ref() == b"package" {
                    let Package { name, evr, arch, href, size } = std::mem::take(&mut one);
                    all.insert(format!("{name}-{evr}.{arch}"), Listed { href, size });
                }
                at.clear();
            }
            Event::Eof => return Ok(all),
            _ => {}
        }
    }
}

/// A package of which some was read.
#[derive(Default)]
struct Package {
    name: String,
    evr: String,
    arch: String,
    href: String,
    size: u64,
}

impl Package {
    fn take(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        let of = |name| attribute(tag, name).map(Option::unwrap_or_default);
        match tag.name().as_ref() {
            b"version" => self.evr = format!("{}:{}-{}", of("epoch")?, of("ver")?, of("rel")?),
            b"location" => self.href = of("href")?,
            b"size" => self.size = of("package")?.parse().map_err(|_| "a package has no size".to_owned())?,
            _ => {}
        }
        Ok(())
    }
}

fn event<'b>(reader: &mut Reader<&[u8]>, buffer: &'b mut Vec<u8>) -> Result<Event<'b>, String> {
    reader
        .read_event_into(buffer)
        .map_err(|error| format!("it is no XML at byte {}: {error}", reader.error_position()))
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = tag.try_get_attribute(name).map_err(|e| e.to_string())?;
    let text = found.map(|attribute| attribute.unescape_value().map(|text| text.into_owned()));
    text.transpose().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const PRIMARY: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">
<package type="rpm">
  <name>gcc-c++</name>
  <arch>x86_64</arch>
  <version epoch="2" ver="13.1" rel="1.el9"/>
  <checksum type="sha256" pkgid="YES">00</checksum>
  <summary>name &amp; arch</summary>
  <size package="512" installed="1" archive="2"/>
  <location href="Packages/gcc-c++-13.1-1.el9.x86_64.rpm"/>
  <format><rpm:provides><rpm:entry name="gcc-c++" flags="EQ" epoch="2" ver="13.1"/></rpm:provides></format>
</package>
</metadata>
"#;

    fn gzip(text: &str) -> Vec<u8> {
        let mut file = GzEncoder::new(Vec::new(), Compression::fast());
        file.write_all(text.as_bytes()).unwrap();
        file.finish().unwrap()
    }

    #[test]
    fn a_package_has_its_full_name_place_and_size() {
        let all = packages(&gzip(PRIMARY)).unwrap();
        let (href, size) = ("Packages/gcc-c++-13.1-1.el9.x86_64.rpm".to_owned(), 512);
        assert_eq!(all, [("gcc-c++-2:13.1-1.el9.x86_64".to_owned(), Listed { href, size })].into());
    }

    #[test]
    fn the_primary_metadata_is_found_among_the_others() {
        let part = |kind: &str, digit: &str| {
            let sum = digit.repeat(64);
            format!(
                "<data type=\"{kind}\"><checksum type=\"sha256\">{sum}</checksum><open-checksum type=\"sha256\">{}</open-checksum><location href=\"repodata/{kind}.xml.gz\"/></data>",
                "0".repeat(64)
            )
        };
        let repomd = format!(
            "<repomd>{}{}{}</repomd>",
            part("other", "a"),
            part("primary", "b"),
            part("filelists", "c")
        );
        let digest = format!("sha256:{}", "b".repeat(64)).parse().unwrap();
        assert_eq!(
            primary(repomd.as_bytes()),
            Ok(Part { href: "repodata/primary.xml.gz".to_owned(), digest })
        );
        assert!(primary(b"<repomd></repomd>").unwrap_err().contains("no primary"));
    }

    #[test]
    fn what_is_no_metadata_is_refused_in_words() {
        assert!(packages(b"<metadata/>").is_err());
        assert!(packages(&gzip(&PRIMARY.replace("</name>", "</nome>"))).unwrap_err().contains("no XML"));
        assert!(packages(&gzip(&PRIMARY.replace("\"512\"", "\"many\""))).unwrap_err().contains("no size"));
        assert!(primary(b"<repomd><data type=\"primary\"></repomd>").is_err());
        assert!(primary(b"\xff\xfe<").is_err());
    }
}
