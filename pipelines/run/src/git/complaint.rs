//! What the `git` program complains about. It has one exit code for everything, so its
//! words decide; under `LC_ALL=C` they have been the same for years, and each is in a test.

/// What a complaint is about, by what has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The server has no such commit or reference, or not under that name.
    NoSuchThing,
    TooLarge,
    Redirect,
    Certificate,
    Disk,
    NotAllowed,
    NoRepository,
    /// The mirror is broken.
    Damage,
    TooSlow,
    /// Nothing that is known: most likely the network.
    Other,
}

/// The first that fits decides, so what is quoted by others stands before them.
const WORDS: &[(Complaint, &[&str])] = &[
    (
        Complaint::NoSuchThing,
        &[
            "not our ref",
            "unadvertised object",
            "find remote ref",
            "no such remote ref",
            "does not support shallow",
        ],
    ),
    (Complaint::TooLarge, &["File too large", "File size limit"]),
    (
        Complaint::Redirect,
        &["error: 301", "error: 302", "error: 303", "error: 307", "error: 308", "from redirection"],
    ),
    (
        Complaint::Certificate,
        &["SSL certificate problem", "certificate verification failed", "SSL: no alternative certificate"],
    ),
    (Complaint::Disk, &["No space left", "unable to create temporary", "insufficient permission"]),
    (
        Complaint::NotAllowed,
        &[
            "Authentication failed",
            "could not read Username",
            "error: 401",
            "error: 403",
            "terminal prompts disabled",
            "Permission denied",
            "Host key verification failed",
        ],
    ),
    (
        Complaint::Damage,
        &[
            "bad object refs/mergeyard",
            "object file",
            "is corrupt",
            "inflate:",
            "pack has bad object",
            "shallow file has changed",
            "missing blob",
            "missing tree",
            "missing commit",
            "unable to read tree",
            "not a git repository: '.'",
        ],
    ),
    (Complaint::NoRepository, &["not found", "does not exist", "does not appear to be a git repository"]),
    (Complaint::TooSlow, &["Operation too slow"]),
];

impl Complaint {
    pub(super) fn read(said: &str) -> Complaint {
        let fits = |words: &[&str]| words.iter().any(|word| said.contains(word));
        WORDS.iter().find(|(_, words)| fits(words)).map_or(Complaint::Other, |(complaint, _)| *complaint)
    }
}

/// Of what git said, the line that says why: the last `fatal` or `error`, else the last.
pub(super) fn last_line(said: &str) -> String {
    let marked = said.lines().rev().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let remote = said.lines().find(|line| line.starts_with("remote: ") && line.len() > 8);
    let line = marked.or_else(|| said.lines().next_back()).unwrap_or("git ended without a word");
    let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ");
    let whole = remote.map_or_else(|| line.to_owned(), |remote| format!("{line} ({remote})"));
    whole.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_sentences_are_sorted_by_what_to_do() {
        for (said, complaint) in [
            ("fatal: remote error: upload-pack: not our ref deadbeef", Complaint::NoSuchThing),
            ("error: Server does not allow request for unadvertised object 12", Complaint::NoSuchThing),
            ("fatal: couldn't find remote ref refs/heads/x", Complaint::NoSuchThing),
            (
                "fatal: unable to access 'https://h/': The requested URL returned error: 301",
                Complaint::Redirect,
            ),
            (
                "fatal: unable to access 'https://h/': SSL certificate problem: certificate has expired",
                Complaint::Certificate,
            ),
            ("fatal: write error: No space left on device", Complaint::Disk),
            ("git@h: Permission denied (publickey).", Complaint::NotAllowed),
            ("fatal: Authentication failed for 'https://h/a/b/'", Complaint::NotAllowed),
            ("fatal: repository 'https://h/a/b/' not found", Complaint::NoRepository),
            ("error: object file ./objects/12/34 is empty", Complaint::Damage),
            ("fatal: bad object refs/mergeyard/commits/12", Complaint::Damage),
            (
                "fatal: unable to access 'https://h/': Operation too slow. Less than 1000 bytes/sec",
                Complaint::TooSlow,
            ),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", Complaint::Other),
            ("fatal: early EOF", Complaint::Other),
        ] {
            assert_eq!(Complaint::read(said), complaint, "{said}");
        }
    }

    #[test]
    fn the_line_that_says_why_is_kept_with_what_the_server_said() {
        let said =
            "remote: Repository not found.\nhint: something\nfatal: repository 'https://h/' not found\n";
        assert_eq!(last_line(said), "repository 'https://h/' not found (remote: Repository not found.)");
        assert_eq!(last_line(""), "git ended without a word");
    }
}
