//! `spec.json`: the name and version a folder's image is published under.

use std::collections::BTreeMap;

use mergeyard_types::{ImageName, Version};
use serde::{
    Deserialize,
    de::{Deserializer, Error as _, MapAccess, Visitor},
};

use crate::{event::one_line, finding::Finding};

/// A specification is a few lines; anything larger is a mistake or an attack.
pub const LARGEST_SPEC: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: ImageName,
    pub version: Version,
}

impl Service {
    /// Reads `spec.json`. A byte order mark and Windows line ends are fine; a missing or
    /// repeated key, another type or a name that no registry takes is a finding.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Finding> {
        const SHAPE: &str = r#"write `{"service":{"name":"apache","version":"0.4.0"}}`"#;
        if bytes.len() > LARGEST_SPEC {
            let message =
                format!("{} bytes are more than the {LARGEST_SPEC} a spec.json may have", bytes.len());
            return Err(Finding::error(file, "spec-too-large", message));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let message = format!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to());
            Finding::error(file, "spec-encoding", message)
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(Finding::error(file, "spec-empty", format!("the file is empty; {SHAPE}")));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let read = serde_path_to_error::deserialize::<_, RawFile>(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.inner();
            let what = without_place(inner);
            let what = one_line(&if path == "." { what } else { format!("`{path}`: {what}") });
            Finding::error(file, "spec-json", format!("{what}; {SHAPE}")).at(inner.line(), inner.column())
        })?;
        json.end().map_err(|error| {
            let message = format!("there is more text after the JSON value; {SHAPE}");
            Finding::error(file, "spec-json", message).at(error.line(), error.column())
        })?;
        Ok(Self { name: read.service.name, version: read.service.version })
    }
}

/// serde_json ends its messages with the place, which the finding already carries.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Keys beside `service` belong to others and are passed over, but none may stand twice.
struct RawFile {
    service: RawService,
}

#[derive(Deserialize)]
struct RawService {
    name: ImageName,
    version: Version,
}

impl<'de> Deserialize<'de> for RawFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct File;

        impl<'de> Visitor<'de> for File {
            type Value = RawFile;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with the key `service`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFile, A::Error> {
                let mut service = None;
                let mut others = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "service" {
                        if service.is_some() {
                            return Err(A::Error::duplicate_field("service"));
                        }
                        service = Some(map.next_value()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        if others.insert(key.clone(), ()).is_some() {
                            return Err(A::Error::custom(format!("duplicate key `{key}`")));
                        }
                    }
                }
                Ok(RawFile { service: service.ok_or_else(|| A::Error::missing_field("service"))? })
            }
        }

        deserializer.deserialize_map(File)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Service, Finding> {
        Service::parse("backend/spec.json", text.as_bytes())
    }

    #[test]
    fn a_specification_names_the_image_and_its_version() {
        let service = read(r#"{"service":{"name":"apache","version":"0.4.0"}}"#).unwrap();
        assert_eq!((service.name.as_str(), service.version.as_str()), ("apache", "0.4.0"));
    }

    #[test]
    fn byte_order_marks_line_ends_and_foreign_keys_are_fine() {
        let text = "\u{feff}{\r\n \"service\": {\r\n \"name\": \"apache\", \"version\": \"1\", \"port\": 80 }, \"team\": 1\r\n}\r\n";
        assert!(read(text).is_ok());
    }

    #[test]
    fn every_wrong_file_is_named_with_its_place_and_a_way_out() {
        for (text, code, says) in [
            ("", "spec-empty", "empty"),
            ("{", "spec-json", "EOF"),
            (r#"{"service":{"name":"apache"}}"#, "spec-json", "missing field `version`"),
            (r#"{"service":{"name":"apache","version":4}}"#, "spec-json", "`service.version`"),
            (r#"{"service":{"name":"a","name":"b","version":"1"}}"#, "spec-json", "duplicate field `name`"),
            (
                r#"{"service":{"name":"a","version":"1"},"service":1}"#,
                "spec-json",
                "duplicate field `service`",
            ),
            (r#"{"x":1,"x":2,"service":{"name":"a","version":"1"}}"#, "spec-json", "duplicate key `x`"),
            (r#"{"service":{"name":"../x","version":"1"}}"#, "spec-json", "image name"),
            (r#"{"service":{"name":"Apache","version":"1"}}"#, "spec-json", "image name"),
            (r#"{"service":{"name":"evil.example.org:5000/x","version":"1"}}"#, "spec-json", "image name"),
            (r#"{"service":{"name":";rm -rf","version":"1"}}"#, "spec-json", "image name"),
            (r#"{"service":{"name":"a","version":"1 2"}}"#, "spec-json", "version"),
            (r#"{"service":{"name":"a","version":NaN}}"#, "spec-json", "expected"),
            (r#"{"service":{"name":"a","version":1e999}}"#, "spec-json", "number out of range"),
            (r#"[{"service":1}]"#, "spec-json", "an object with the key `service`"),
            (r#"{"service":{"name":"a","version":"1"}} x"#, "spec-json", "more text"),
        ] {
            let finding = read(text).expect_err(text);
            assert_eq!(finding.code, code, "{text}");
            assert!(finding.to_string().starts_with("backend/spec.json"), "{finding}");
            assert!(finding.message.contains(says), "{text}: {finding}");
        }
    }

    #[test]
    fn what_is_not_text_or_too_large_is_refused_before_it_is_read() {
        assert_eq!(Service::parse("s", &[b'{', 0xff]).unwrap_err().code, "spec-encoding");
        assert_eq!(Service::parse("s", &vec![b' '; LARGEST_SPEC + 1]).unwrap_err().code, "spec-too-large");
    }
}
