//! Words for the shell at the other end.
//!
//! The protocol carries one line, not a list of arguments, and the login shell of the target
//! reads it. So every word stands in single quotes, in which a POSIX shell takes everything
//! for itself but the quote that ends them.

use std::time::Duration;

use super::SshError;

/// Linux takes no longer argument, and the whole line becomes one.
const MAX_LINE_BYTES: usize = 100 * 1024;

/// One line that runs `program` with exactly these arguments.
///
/// sshd ends nothing when its connection breaks, so a program has its limit there too: what
/// nobody waits for any more ends by itself, with all that it started.
pub(super) fn line(program: &str, args: &[String], limit: Option<Duration>) -> Result<String, SshError> {
    let limit = limit.map(|limit| format!("timeout -k 10 {} ", limit.as_secs() + 1));
    let mut line = limit.unwrap_or_default();
    for word in std::iter::once(program).chain(args.iter().map(String::as_str)) {
        if word.contains('\0') {
            let why = format!("an argument of `{}` has a zero byte in it", shown(program));
            return Err(SshError::Unusable(why));
        }
        line += &quoted(word);
        line.push(' ');
    }
    // The shell stays, so that a program that a signal ends has an exit code too.
    line += "; exit $?";
    if line.len() > MAX_LINE_BYTES {
        let (program, size, most) = (shown(program), line.len(), MAX_LINE_BYTES);
        let why = format!(
            "the arguments of `{program}` have {size} bytes, more than {most}: give them on its standard input"
        );
        return Err(SshError::Unusable(why));
    }
    Ok(line)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A program's name as a message can hold it.
pub(super) fn shown(program: &str) -> String {
    program.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

    fn as_sh_reads(args: &[String]) -> Vec<String> {
        let line = line("printf", &[&["%s\\0".to_owned()], args].concat(), LIMIT).unwrap();
        let output = Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        let mut words: Vec<_> =
            output.stdout.split(|b| *b == 0).map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();
        assert_eq!(words.pop().as_deref(), Some(""));
        words
    }

    #[test]
    fn a_shell_reads_every_word_as_it_was_written() {
        let nasty = [
            "",
            " ",
            "'",
            "''",
            "\\",
            "\\'",
            "'\\''",
            "$(id)",
            "`id`",
            "${HOME}",
            "~",
            "*",
            "!!",
            "a\nb",
            "\r",
            "-rf",
            "; reboot",
            "&& reboot",
            "| sh",
            "> /etc/passwd",
            "#",
            "ä€😀",
            "%s",
            "\u{1b}[2J",
            "'; touch /tmp/x; '",
        ];
        let nasty: Vec<String> = nasty.map(str::to_owned).into();
        assert_eq!(as_sh_reads(&nasty), nasty);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_words_are_read_as_anything_else(
            words in prop::collection::vec("[^\0]{0,40}|['\\\\\"$`;&|<>(){}!*?~# \n\t-]{1,12}", 1..6)
        ) {
            prop_assert_eq!(as_sh_reads(&words), words);
        }
    }

    #[test]
    fn what_cannot_be_an_argument_is_refused() {
        let refused = line("dnf", &["a\0b".to_owned()], LIMIT).unwrap_err().to_string();
        assert!(refused.contains("an argument of `dnf` has a zero byte"), "{refused}");
        let refused = line("dnf", &["x".repeat(MAX_LINE_BYTES)], LIMIT).unwrap_err().to_string();
        assert!(refused.contains("give them on its standard input"), "{refused}");
    }
}
