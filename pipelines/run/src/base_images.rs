//! Which images a Dockerfile stands on, so that they can be pulled ahead of the build, each
//! with its own registry's credentials.
//!
//! This only looks ahead. What cannot be resolved here is left to the engine, which judges
//! the Dockerfile anyway and says what is wrong with it.

use std::collections::HashMap;

use mergeyard_types::{ImageName, RegistryHost};
use parse_dockerfile::{Dockerfile, Flag, Instruction};

/// A Dockerfile with more base images than this is not looked ahead into: it protects the engine.
const MAX_BASE_IMAGES: usize = 50;

/// The images named in `FROM` and `COPY --from`, without stages and `scratch`, each once.
pub fn base_images(dockerfile: &str) -> Vec<String> {
    let Ok(parsed) = parse_dockerfile::parse(dockerfile.trim_start_matches('\u{feff}')) else {
        return Vec::new();
    };
    let args = global_args(&parsed);
    let mut stages: Vec<String> = Vec::new();
    let mut images: Vec<String> = Vec::new();
    for instruction in &parsed.instructions {
        let named = match instruction {
            Instruction::From(from) => {
                let image = expand(&from.image.value, &args);
                let external = image.filter(|image| !stages.contains(&image.to_lowercase()));
                stages.push(from.as_.as_ref().map_or(String::new(), |(_, name)| name.value.to_lowercase()));
                external
            }
            Instruction::Copy(copy) => copied_from(&copy.options).filter(|from| is_image(from, &stages)),
            _ => None,
        };
        images.extend(named.filter(|image| !image.is_empty() && image != "scratch"));
    }
    let mut seen = std::collections::HashSet::new();
    images.retain(|image| seen.insert(image.clone()));
    images.truncate(MAX_BASE_IMAGES);
    images
}

/// `host[:port]` of the registry an image comes from; Docker Hub is `docker.io`.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if names_registry(first) => match first {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            host => host,
        },
        _ => "docker.io",
    }
}

/// What our own registry calls an image of a registry it mirrors: `<host>/docker.io/library/debian:12`
/// for `debian:12`.
pub fn in_mirror(image: &str, host: &RegistryHost, mirrors: &[ImageName]) -> Option<String> {
    let name = full_name(image);
    let mirrored =
        |mirror: &ImageName| name.strip_prefix(mirror.as_str()).is_some_and(|rest| rest.starts_with('/'));
    mirrors.iter().any(mirrored).then(|| format!("{host}/{name}"))
}

/// With its registry, and on Docker Hub with the `library` that people leave out.
fn full_name(image: &str) -> String {
    let name = match image.split_once('/') {
        Some((first, rest)) if names_registry(first) => rest,
        _ => image,
    };
    match registry_of(image) {
        "docker.io" if !name.contains('/') => format!("docker.io/library/{name}"),
        registry => format!("{registry}/{name}"),
    }
}

fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn copied_from(options: &[Flag<'_>]) -> Option<String> {
    let from = options.iter().find(|flag| flag.name.value == "from")?;
    from.value.as_ref().map(|value| value.value.to_string())
}

fn is_image(from: &str, stages: &[String]) -> bool {
    let number = !from.is_empty() && from.bytes().all(|b| b.is_ascii_digit());
    !number && !from.contains('$') && !stages.contains(&from.to_lowercase())
}

/// The `ARG`s before the first `FROM`, with their defaults expanded in turn.
fn global_args(parsed: &Dockerfile<'_>) -> HashMap<String, String> {
    let mut args = HashMap::new();
    for arg in parsed.global_args() {
        for word in arg.arguments.value.split_whitespace() {
            if let Some((name, value)) = word.split_once('=')
                && let Some(value) = expand(value.trim_matches(['"', '\'']), &args)
            {
                args.insert(name.to_owned(), value);
            }
        }
    }
    args
}

/// `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`; `None` when a name is not known here.
fn expand(text: &str, args: &HashMap<String, String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (value, behind) = match after.strip_prefix('{') {
            Some(inside) => {
                let (inside, behind) = inside.split_once('}')?;
                (braced(inside, args)?, behind)
            }
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (args.get(&after[..end])?.clone(), &after[end..])
            }
        };
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

fn braced(inside: &str, args: &HashMap<String, String>) -> Option<String> {
    let set = |name: &str| args.get(name).filter(|value| !value.is_empty());
    if let Some((name, default)) = inside.split_once(":-") {
        return Some(set(name).cloned().unwrap_or_else(|| default.to_owned()));
    }
    if let Some((name, other)) = inside.split_once(":+") {
        return Some(set(name).map_or(String::new(), |_| other.to_owned()));
    }
    args.get(inside).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_scratch_and_arguments_are_understood() {
        let dockerfile = "\
# syntax=docker/dockerfile:1
ARG TAG=bookworm-slim
ARG BASE=debian:${TAG}
FROM --platform=linux/amd64 $BASE AS Build
RUN true
FROM build AS again
COPY --from=0 /a /a
COPY --from=again /a /a
COPY --from=registry.example.org:5000/tools:1 /t /t
FROM scratch
FROM ${MISSING:-alpine:3}
FROM $UNKNOWN
FROM debian:bookworm-slim
";
        let expected = ["debian:bookworm-slim", "registry.example.org:5000/tools:1", "alpine:3"];
        assert_eq!(base_images(dockerfile), expected);
    }

    #[test]
    fn what_is_no_dockerfile_has_no_base_images() {
        for text in ["", "\u{feff}", "HELLO", "FROM", "\0\0", "FROM $", "FROM ${", "FROM ${}"] {
            assert_eq!(base_images(text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn docker_hub_has_many_spellings() {
        for image in
            ["debian", "debian:12", "library/debian", "docker.io/debian", "index.docker.io/library/debian"]
        {
            assert_eq!(registry_of(image), "docker.io");
        }
        assert_eq!(registry_of("localhost/x"), "localhost");
        assert_eq!(registry_of("registry.example.org:5000/a/b:1@sha256:00"), "registry.example.org:5000");
    }

    #[test]
    fn an_image_of_a_mirrored_registry_has_a_name_in_ours() {
        let host = "127.0.0.1:5000".parse().unwrap();
        let mirrors = ["docker.io", "quay.io"].map(|mirror| mirror.parse().unwrap());
        for (image, ours) in [
            ("debian", "docker.io/library/debian"),
            ("debian:bookworm-slim", "docker.io/library/debian:bookworm-slim"),
            ("index.docker.io/debian:12", "docker.io/library/debian:12"),
            ("acme/clock:1", "docker.io/acme/clock:1"),
            ("quay.io/a/b:1@sha256:00", "quay.io/a/b:1@sha256:00"),
        ] {
            assert_eq!(in_mirror(image, &host, &mirrors), Some(format!("{host}/{ours}")), "{image}");
        }
        for image in ["quay.io.example.org/a:1", "ghcr.io/a/b", "127.0.0.1:5000/docker.io/library/debian"] {
            assert_eq!(in_mirror(image, &host, &mirrors), None, "{image}");
        }
    }
}
