//! The commands of a step as one script for `/bin/sh -e`.
//!
//! The script is an argument of the shell, so an image needs no `base64` and a command that reads
//! its input finds none instead of the rest of the script. Only an entrypoint of the file's own
//! gets it as Woodpecker hands it over, in base64 in `$CI_SCRIPT`.

/// The credentials of the clone, for git and curl, where the planner gave any; nobody reads
/// them or the script from the environment of a command.
///
/// Both outputs are one stream from here on, so that a person reads them in the order in which
/// they were written: of two pipes nobody knows it.
const SETUP: &str = r#"exec 2>&1
if [ -n "$CI_NETRC_MACHINE" ]; then
(umask 077; printf 'machine %s\nlogin %s\npassword %s\n' "$CI_NETRC_MACHINE" "$CI_NETRC_USERNAME" "$CI_NETRC_PASSWORD" >"$HOME/.netrc")
fi
unset CI_NETRC_USERNAME CI_NETRC_PASSWORD CI_SCRIPT
"#;

/// Each command is told before it runs.
pub(super) fn script(commands: &[String]) -> String {
    with_setup(SETUP, commands)
}

/// As [`script`], and says at its end that nothing more follows and whether there is a file at
/// `output`. A command that replaces the shell or its trap takes that away, and no more.
pub(super) fn telling_script(commands: &[String], epilogue: &Epilogue, output: &str) -> String {
    let (output, mark) = (quoted(output), &epilogue.mark);
    let tell = format!("if [ -e {output} ]; then echo {mark}+; else echo {mark}-; fi");
    with_setup(&format!("{SETUP}trap {} EXIT\n", quoted(&tell)), commands)
}

/// The last words of a script, which are for us and in no log.
///
/// The engine tells at once that a container ended and takes its time to take down what was
/// around it, and all that time its log stays open. Who has read these words has read them all.
pub(super) struct Epilogue {
    mark: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) has_outputs: bool,
}

impl Epilogue {
    /// Of the container of that name: whoever follows it after a restart knows the mark as well.
    pub(super) fn of(container: &str) -> Self {
        Self { mark: format!("{container}-has-ended") }
    }

    /// How many bytes at the end of `text` may be the beginning of the last words, cut by the way.
    pub(super) fn begun(&self, text: &[u8]) -> usize {
        let mark = self.mark.as_bytes();
        let may_begin = |tail: &[u8]| match tail.strip_prefix(mark) {
            Some(sign) => matches!(sign, b"" | b"+" | b"-"),
            None => mark.starts_with(tail),
        };
        let most = text.len().min(mark.len() + 1);
        (1..=most).rev().find(|length| may_begin(&text[text.len() - length..])).unwrap_or(0)
    }

    /// What was said before the last words, when these are the last.
    pub(super) fn strip<'a>(&self, text: &'a [u8]) -> Option<(&'a [u8], Told)> {
        let (text, sign) = text.strip_suffix(b"\n")?.split_last_chunk::<1>()?;
        let before = text.strip_suffix(self.mark.as_bytes())?;
        match sign {
            b"+" => Some((before, Told { has_outputs: true })),
            b"-" => Some((before, Told { has_outputs: false })),
            _ => None,
        }
    }
}

fn with_setup(setup: &str, commands: &[String]) -> String {
    let mut script = setup.to_owned();
    for command in commands {
        script.push_str(&format!("printf '+ %s\\n' {}\n{command}\n", quoted(command)));
    }
    script
}

/// One word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn run(commands: &[&str], environment: &[(&str, &str)]) -> (String, Option<i32>) {
        let script = script(&commands.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-e", "-c", &script]).env_clear().stdin(Stdio::null());
        let output = shell.envs(environment.iter().copied()).env("PATH", "/usr/bin:/bin").output().unwrap();
        assert!(output.stderr.is_empty(), "what a step says is one stream");
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }

    #[test]
    fn each_command_is_told_and_run_and_the_first_that_fails_is_the_last() {
        let (said, code) = run(&["echo one", "(exit 3)", "echo never"], &[]);
        assert_eq!((said.as_str(), code), ("+ echo one\none\n+ (exit 3)\n", Some(3)));
    }

    #[test]
    fn commands_share_one_shell_and_may_span_lines() {
        let (said, code) = run(&["cd /\nx=1", "echo $PWD $x"], &[]);
        assert_eq!((said.as_str(), code), ("+ cd /\nx=1\n+ echo $PWD $x\n/ 1\n", Some(0)));
    }

    #[test]
    fn a_command_that_reads_does_not_swallow_the_commands_after_it() {
        let (said, _) = run(&["cat", "echo after"], &[]);
        assert_eq!(said, "+ cat\n+ echo after\nafter\n");
    }

    #[test]
    fn errors_and_output_keep_their_order() {
        let (said, _) = run(&["for i in 1 2 3; do echo o$i; echo e$i >&2; done"], &[]);
        assert!(said.ends_with("o1\ne1\no2\ne2\no3\ne3\n"), "{said}");
    }

    #[test]
    fn credentials_become_a_netrc_and_leave_the_environment() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        let netrc = [("CI_NETRC_MACHINE", "git.example.org"), ("CI_NETRC_USERNAME", "bot")];
        let given = [netrc.as_slice(), &[("CI_NETRC_PASSWORD", "hunter22"), ("HOME", home)]].concat();
        let (said, code) =
            run(&["stat -c %a $HOME/.netrc; cat $HOME/.netrc; echo \"[$CI_NETRC_PASSWORD]\""], &given);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.ends_with("600\nmachine git.example.org\nlogin bot\npassword hunter22\n[]\n"), "{said}");
        let (said, _) = run(&["ls -A $HOME"], &[("HOME", "/var/empty/nobody")]);
        assert!(!said.contains(".netrc"));
    }

    #[test]
    fn the_last_words_tell_of_outputs_and_keep_the_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("it's output").display().to_string();
        let epilogue = Epilogue::of("mergeyard-x-w1-s1-a1");
        let run = |commands: &[&str]| {
            let commands: Vec<_> = commands.iter().map(|c| (*c).to_owned()).collect();
            let script = telling_script(&commands, &epilogue, &output);
            let output =
                Command::new("/bin/sh").args(["-e", "-c", &script]).stdin(Stdio::null()).output().unwrap();
            (output.stdout, output.status.code())
        };
        let (said, code) = run(&["printf no-newline; exit 3"]);
        let (before, told) = epilogue.strip(&said).unwrap();
        assert_eq!((code, told.has_outputs), (Some(3), false));
        assert!(before.ends_with(b"\nno-newline"));
        let (said, code) = run(&[&format!("echo a=b > \"{output}\"")]);
        assert_eq!((code, epilogue.strip(&said).unwrap().1.has_outputs), (Some(0), true));
        let (said, code) = run(&["exec true"]);
        assert_eq!((code, epilogue.strip(&said)), (Some(0), None));
        let words = format!("text{}-", epilogue.mark);
        for cut in 0..=words.len() {
            assert_eq!(epilogue.begun(&words.as_bytes()[..cut]), cut.saturating_sub("text".len()));
        }
        assert_eq!(epilogue.begun(format!("{words}\n").as_bytes()), 0);
        for other in ["", "\n", "-\n", "mergeyard-x-w1-s1-a2-has-ended-\n"] {
            assert_eq!(epilogue.strip(other.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_command_is_it_is_told_as_it_is(command in "[ -~é\n]{0,40}") {
            let word = quoted(&command);
            let output = Command::new("/bin/sh").args(["-c", &format!("printf %s {word}")]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), command);
        }
    }
}
