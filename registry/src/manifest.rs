//! Manifests: the one kind of content the registry looks into.
//!
//! The bytes are kept exactly as pushed, because their digest is their name. They are parsed only
//! to refuse what clients would read in two ways, and to know what must be stored before them.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use mergeyard_types::{Digest, Version};
use serde::{Deserialize, Serialize};

/// A manifest as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Index,
}

/// The media types that may be pushed, in the order of their ages.
const MEDIA_TYPES: [(&str, Kind); 4] = [
    ("application/vnd.docker.distribution.manifest.v2+json", Kind::Image),
    ("application/vnd.docker.distribution.manifest.list.v2+json", Kind::Index),
    ("application/vnd.oci.image.manifest.v1+json", Kind::Image),
    ("application/vnd.oci.image.index.v1+json", Kind::Index),
];

/// Layers that a registry need not hold: their licence forbids to distribute them, `urls` says where they are.
const NOT_DISTRIBUTED: [&str; 2] = [
    "application/vnd.docker.image.rootfs.foreign.diff",
    "application/vnd.oci.image.layer.nondistributable.v1",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: Option<String>,
}

/// A descriptor in the answer to "who refers to this?".
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    media_type: String,
    pub(crate) digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Checks a pushed body against the `Content-Type` it came with, and returns it with the media
    /// type to keep. A body that could be read as another kind than its type says is refused: two
    /// clients would see two images under one digest.
    pub(crate) fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<(Self, &'static str), String> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not a manifest's JSON: {error}"))?;
        let header = content_type.map(|text| text.split(';').next().unwrap_or("").trim());
        let claimed = header.or(document.media_type.as_deref()).ok_or("Content-Type is missing")?;
        let known = MEDIA_TYPES.iter().find(|(name, _)| claimed.eq_ignore_ascii_case(name));
        let Some((media_type, kind)) = known else {
            return Err(format!(
                "the media type `{}` is not one of a manifest or index",
                claimed.escape_debug()
            ));
        };
        if document.media_type.as_deref().is_some_and(|inner| inner != *media_type) {
            return Err(format!("its mediaType is not the `{media_type}` of the Content-Type"));
        }
        document.check(*kind)?;
        Ok((document, media_type))
    }

    /// Reads back a manifest that was checked when it was pushed.
    pub(crate) fn stored(manifest: &Manifest) -> io::Result<Self> {
        serde_json::from_slice(&manifest.bytes).map_err(io::Error::from)
    }

    fn check(&self, kind: Kind) -> Result<(), String> {
        if self.schema_version != 2 {
            return Err(format!("schemaVersion is {}, only 2 is supported", self.schema_version));
        }
        if self.fs_layers.is_some() {
            return Err("fsLayers belongs to schema version 1".into());
        }
        match kind {
            Kind::Image if self.manifests.is_some() => {
                Err("an image manifest must not have `manifests`".into())
            }
            Kind::Image if self.config.is_none() => Err("`config` is missing".into()),
            Kind::Image if self.layers.is_none() => Err("`layers` is missing".into()),
            Kind::Index if self.config.is_some() || self.layers.is_some() => {
                Err("an index must not have `config` or `layers`".into())
            }
            Kind::Index if self.manifests.is_none() => Err("`manifests` is missing".into()),
            Kind::Image | Kind::Index => Ok(()),
        }
    }

    /// Blobs of an image that the repository must have.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let foreign =
            |d: &&Descriptor| !NOT_DISTRIBUTED.iter().any(|prefix| d.media_type.starts_with(prefix));
        self.config.iter().chain(self.layers.iter().flatten().filter(foreign))
    }

    /// Manifests of an index that the repository must have.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().flatten()
    }

    /// Whether the repository must keep this content as long as it has the manifest.
    pub(crate) fn refers_to(&self, digest: &Digest) -> bool {
        self.blobs().chain(self.children()).any(|descriptor| descriptor.digest == *digest)
    }

    pub(crate) fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// The manifest this one says something about: a signature, a bill of materials.
    pub(crate) fn subject(&self) -> Option<Digest> {
        self.subject.as_ref().map(|subject| subject.digest)
    }

    /// How this manifest is listed among those that refer to its subject.
    pub(crate) fn as_referrer(&self, manifest: &Manifest) -> Referrer {
        // An image without a type of its own is of its configuration's.
        let config = self.config.as_ref().map(|config| config.media_type.clone());
        Referrer {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.to_string(),
            size: manifest.bytes.len() as u64,
            artifact_type: self.artifact_type.clone().filter(|own| !own.is_empty()).or(config),
            annotations: self.annotations.clone(),
        }
    }

    /// The first image of an index; attestations lie beside the images with an unknown platform.
    pub(crate) fn first_platform(&self) -> Option<&Descriptor> {
        let known = |d: &&Descriptor| {
            let os = d.platform.as_ref().and_then(|platform| platform.os.as_deref());
            is_image(&d.media_type) && os != Some("unknown")
        };
        self.children().find(known)
    }
}

/// What a tag such as `sha256-<hex>.sig` is attached to. Where registries cannot list referrers, clients
/// keep signatures and lists of referrers under such tags, and move them with each new one: they
/// are not versions of anything.
pub(crate) fn attached_to(tag: &Version) -> Option<Digest> {
    let (algorithm, rest) = tag.as_str().split_once('-')?;
    let hex = rest.split_once('.').map_or(rest, |(hex, _)| hex);
    format!("{algorithm}:{hex}").parse().ok()
}

fn is_image(media_type: &str) -> bool {
    MEDIA_TYPES.contains(&(media_type, Kind::Image))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn verdict(content_type: Option<&str>, body: &str) -> Result<&'static str, String> {
        let descriptor = format!(r#"{{"mediaType":"x/y","digest":"sha256:{}","size":2}}"#, "ab".repeat(32));
        Document::parse(content_type, body.replace('@', &descriptor).as_bytes()).map(|(_, kept)| kept)
    }

    #[test]
    fn a_manifest_is_what_its_media_type_says_and_nothing_else() {
        let image = r#"{"schemaVersion":2,"config":@,"layers":[@]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[@]}"#;
        assert_eq!(verdict(Some(IMAGE), image), Ok(IMAGE));
        assert_eq!(verdict(Some(&format!("{IMAGE}; charset=utf-8")), image), Ok(IMAGE));
        assert_eq!(verdict(Some(INDEX), index), Ok(INDEX));
        let own = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[@]}}"#);
        assert_eq!(verdict(None, &own), Ok(INDEX));
        for (content_type, body) in [
            (None, image),
            (Some("application/json"), image),
            (Some(INDEX), image),
            (Some(IMAGE), index),
            (Some(IMAGE), own.as_str()),
            (Some(IMAGE), r#"{"schemaVersion":2,"config":@,"layers":[@],"manifests":[@]}"#),
            (Some(INDEX), r#"{"schemaVersion":2,"manifests":[@],"layers":[]}"#),
            (Some(IMAGE), r#"{"schemaVersion":2,"config":@,"config":@,"layers":[]}"#),
            (Some(IMAGE), r#"{"schemaVersion":2,"config":@}"#),
            (Some(IMAGE), r#"{"schemaVersion":1,"config":@,"layers":[]}"#),
            (Some(IMAGE), r#"{"schemaVersion":2,"config":@,"layers":[],"fsLayers":[]}"#),
            (
                Some(IMAGE),
                r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:..","size":2},"layers":[]}"#,
            ),
            (Some(IMAGE), r#"{"schemaVersion":2,"config":{"mediaType":"x","size":-1},"layers":[]}"#),
            (Some(IMAGE), "[]"),
            (Some(IMAGE), ""),
            (Some(IMAGE), &"[".repeat(100_000)),
        ] {
            assert!(verdict(content_type, body).is_err(), "{content_type:?} {:.80}", body);
        }
    }

    /// A manifest with parts of other kinds, of other types and under wrong names.
    fn manifests() -> impl Strategy<Value = serde_json::Value> {
        let digest = "sha(256:[0-9a-f]{64}|512:[0-9a-f]{128}|1:[0-9a-f]{2})";
        let descriptor = (digest, any::<i32>()).prop_map(
            |(digest, size)| json!({"mediaType": "x/y", "digest": digest, "size": size, "platform": {"os": "linux"}}),
        );
        let odd = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|n| json!(n)),
            ".{0,8}".prop_map(|text| json!(text)),
            Just(json!([[[{}]]])),
        ];
        let part = prop_oneof![
            8 => descriptor.clone(),
            8 => prop::collection::vec(descriptor, 0..3).prop_map(|all| json!(all)),
            1 => odd,
        ];
        let key = prop_oneof![
            Just("config"),
            Just("layers"),
            Just("manifests"),
            Just("subject"),
            Just("annotations"),
            Just("artifactType"),
            Just("mediaType"),
            Just("fsLayers"),
        ];
        let good = json!({"mediaType": "x/y", "digest": format!("sha256:{}", "ab".repeat(32)), "size": 2});
        (prop::collection::vec((key, part), 0..3), any::<bool>(), 1..5u8).prop_map(
            move |(parts, index, version)| {
                let mut manifest = match index {
                    true => json!({"manifests": [good]}),
                    false => json!({"config": good, "layers": [good]}),
                };
                manifest["schemaVersion"] = json!(version.min(2));
                for (key, part) in parts {
                    manifest[key] = part;
                }
                manifest
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_of_one_kind_and_reads_back_the_same(
            manifest in manifests(), index: bool, cut in prop::option::of(0..200usize),
        ) {
            let mut bytes = manifest.to_string().into_bytes();
            bytes.truncate(cut.unwrap_or(usize::MAX));
            let Ok((document, kept)) = Document::parse(Some(if index { INDEX } else { IMAGE }), &bytes) else {
                return Ok(());
            };
            prop_assert_eq!(kept == INDEX, manifest.get("manifests").is_some_and(|part| !part.is_null()));
            prop_assert_eq!(kept == IMAGE, manifest.get("config").is_some_and(|part| !part.is_null()));
            let manifest = Manifest { digest: Digest::Sha256([0; 32]), media_type: kept.to_owned(), bytes: bytes.into() };
            let again = Document::stored(&manifest).unwrap();
            prop_assert_eq!(format!("{document:?}"), format!("{again:?}"));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Document::parse(Some(IMAGE), &bytes);
        }
    }
}
