//! Programs that end with whoever holds them, however that ends.
//!
//! A connection and an agent outlive the calls that use them, so no call can answer for their end.
//! Each is the child of a small shell that reads from a pipe of ours: when the pipe closes,
//! because its holder was dropped or because this process was killed, the shell ends the program,
//! reaps it, and removes the folder they used.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Its own output is closed, so that the end of the program's output is the end of the program.
const SCRIPT: &str = r#"
folder=$1
shift
"$@" </dev/null &
exec >/dev/null 2>&1
read -r _
kill -KILL $!
wait
rm -rf -- "$folder"
"#;

/// The shell needs milliseconds; a machine that is very busy needs more.
const END: Duration = Duration::from_secs(10);

/// Dropping it is what ends the program.
pub(super) struct Leash {
    shell: Child,
}

impl Leash {
    /// Starts `command` beside `folder`, which goes when it ends.
    pub(super) fn hold(
        command: &Command,
        folder: &Path,
    ) -> std::io::Result<(Leash, ChildStdout, ChildStderr)> {
        let held = command.as_std();
        let mut shell = super::local::command("/bin/sh");
        shell
            .args(["-c", SCRIPT, "sh"])
            .arg(folder)
            .arg(held.get_program())
            .args(held.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What a terminal sends to its foreground must not end the shell before its work.
            .process_group(0);
        let mut shell = shell.spawn()?;
        let (Some(stdout), Some(stderr)) = (shell.stdout.take(), shell.stderr.take()) else {
            return Err(std::io::Error::other("a program has no output"));
        };
        Ok((Leash { shell }, stdout, stderr))
    }

    /// As dropping it, and everything has ended when this returns.
    pub(super) async fn end(mut self) {
        drop(self.shell.stdin.take());
        // Nothing is left to do about one that does not end.
        let _ = tokio::time::timeout(END, self.shell.wait()).await;
    }
}
