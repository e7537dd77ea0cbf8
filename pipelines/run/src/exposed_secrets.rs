//! Build secrets that a Dockerfile gives away.
//!
//! What stands in an `ARG` or `ENV` stays in the image's history for everyone who pulls it.
//! This warns and forbids nothing: a name alone is no proof, and a value that is in the
//! Dockerfile is in the repository already.

use parse_dockerfile::Instruction;

use crate::{engine::BuildSecret, log::MIN_SECRET_BYTES};

/// One warning for each place, with its line, in the order of the lines.
pub(crate) fn exposed_secrets(dockerfile: &str, secrets: &[BuildSecret]) -> Vec<(usize, String)> {
    let dockerfile = dockerfile.trim_start_matches('\u{feff}');
    let mut found = named(dockerfile, secrets);
    for BuildSecret { id, value } in secrets {
        let value = value.expose().trim();
        if value.len() < MIN_SECRET_BYTES {
            continue;
        }
        for (at, _) in dockerfile.match_indices(value) {
            found.push((line(dockerfile, at), format!("the value of build secret `{id}` is written here: take it out, replace the secret, and mount it with `RUN --mount=type=secret,id={id}`")));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// `ARG`s and `ENV`s that are called like a secret. Environment names are upper case by
/// custom and ids are not, so the case does not count.
fn named(dockerfile: &str, secrets: &[BuildSecret]) -> Vec<(usize, String)> {
    let Ok(parsed) = parse_dockerfile::parse(dockerfile) else { return Vec::new() };
    let mut found = Vec::new();
    for instruction in &parsed.instructions {
        let (keyword, at, names) = match instruction {
            Instruction::Arg(arg) => ("ARG", arg.arg.span.start, arg_names(&arg.arguments.value)),
            Instruction::Env(env) => ("ENV", env.env.span.start, env_names(&env.arguments.value)),
            _ => continue,
        };
        for name in names {
            if let Some(BuildSecret { id, .. }) = secrets.iter().find(|s| s.id.eq_ignore_ascii_case(name)) {
                found.push((line(dockerfile, at), format!("`{keyword} {name}` is called like build secret `{id}` and its value stays in the image's history: mount it with `RUN --mount=type=secret,id={id}`")));
            }
        }
    }
    found
}

/// `A=1 B`
fn arg_names(arguments: &str) -> Vec<&str> {
    arguments.split_whitespace().map(before_equals).collect()
}

/// `A=1 B=2`, or `A the rest is its value`.
fn env_names(arguments: &str) -> Vec<&str> {
    let words = arguments.split_whitespace().enumerate();
    words.filter(|(i, word)| *i == 0 || word.contains('=')).map(|(_, word)| before_equals(word)).collect()
}

fn before_equals(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use mergeyard_types::Secret;

    use super::*;

    fn lines(dockerfile: &str) -> Vec<usize> {
        let secrets = [("npm_token", "hunter22\n"), ("short", "ab")];
        let secrets = secrets.map(|(id, value)| BuildSecret { id: id.to_owned(), value: Secret::new(value) });
        let found = exposed_secrets(dockerfile, &secrets);
        for (line, why) in &found {
            assert!(!why.contains("hunter22") && why.contains("--mount=type=secret"), "{line}: {why}");
        }
        found.into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn arguments_and_variables_called_like_a_secret_are_found_with_their_lines() {
        assert_eq!(
            lines("\u{feff}ARG NPM_TOKEN\nFROM scratch\nENV A=1 \\\n  npm_token=2\nARG x short=1\n"),
            [1, 3, 5]
        );
        assert_eq!(lines("FROM scratch\r\nENV NPM_TOKEN of mine\r\n"), [2]);
    }

    #[test]
    fn a_value_is_found_wherever_it_stands_even_where_nothing_can_be_parsed() {
        assert_eq!(lines("FROM debian\nRUN login hunter22 && : hunter22\nHELLO hunter22\n"), [2, 3]);
    }

    #[test]
    fn what_only_mentions_a_secret_is_left_alone() {
        let mounts = "FROM debian\nRUN --mount=type=secret,id=npm_token cat /run/secrets/npm_token\n";
        for fine in [mounts, "FROM debian\nENV A the npm_token ab\nARG B=npm_token\n# ab\n", "", "\0"] {
            assert_eq!(lines(fine), Vec::<usize>::new(), "{fine:?}");
        }
    }
}
