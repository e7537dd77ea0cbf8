//! A mirror with its upstream, its web server and its repository of lists.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use git2::Repository;
use mergeyard_plan::action::{Action, YumMirrorAction};
use mergeyard_run::{
    executor::{StepContext, StepJob, StepOutcome},
    ledger::{Intent, Ledger, LedgerError, Verdict},
    log::{LogLine, LogSink},
    target::{Mirror, Reach, Target},
};
use mergeyard_types::{CommitSha, DeploymentId, Digest, TargetName};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    files::Files,
    rpms::{self, Rpm},
    sshd::Sshd,
    steps::{MINUTE, Steps},
    support::{FILE, bare, commit},
};

pub(crate) struct Lab {
    pub(crate) steps: Steps,
    pub(crate) upstream: Files,
    /// Where the upstream's packages lie.
    pub(crate) packages: PathBuf,
    pub(crate) web: Files,
    pub(crate) root: PathBuf,
    pub(crate) sshd: Option<Sshd>,
    /// What the web server's certificate is signed by.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) book: Arc<Book>,
    git: Repository,
}

impl Lab {
    /// A mirror that is this machine.
    pub(crate) async fn new(upstream: &[Rpm]) -> Lab {
        let steps = Steps::new();
        let git = bare(&steps.dir.path().join("up.git"));
        // No part of the way takes any of it for anything but a name.
        let root = steps.dir.path().join("the mirror's; $(root)");
        let packages = steps.dir.path().join("upstream");
        for folder in [&root, &packages] {
            std::fs::create_dir_all(folder).unwrap();
        }
        rpms::add(&packages, upstream);
        let (upstream, web) =
            (Files::serve(packages.clone()).await, Files::serve(root.join("current")).await);
        let book =
            Arc::new(Book { current: root.join("current"), lines: Mutex::default(), live: Mutex::default() });
        let lab = Lab { steps, upstream, packages, web, root, sshd: None, ca: None, book, git };
        lab.configure("gpgcheck=0");
        lab
    }

    /// A mirror that is reached over SSH.
    pub(crate) async fn over_ssh(upstream: &[Rpm]) -> Lab {
        let mut lab = Lab::new(upstream).await;
        lab.at_login("");
        let before = format!("ForceCommand . {}; eval \"$SSH_ORIGINAL_COMMAND\"", lab.login().display());
        lab.sshd = Some(Sshd::start(&before).await);
        lab
    }

    /// What the mirror's shell does before it does anything else.
    pub(crate) fn at_login(&self, script: &str) {
        std::fs::write(self.login(), script).unwrap();
    }

    fn login(&self) -> PathBuf {
        self.steps.dir.path().join("login")
    }

    pub(crate) fn configure(&self, more: &str) {
        let url = &self.upstream.url;
        let text = format!("[main]\nretries=1\n[lab]\nname=lab\nbaseurl={url}/\n{more}\n");
        std::fs::write(self.root.join("dnf.conf"), text).unwrap();
    }

    pub(crate) fn list(&self, packages: &str) -> CommitSha {
        commit(&self.git, "main", &[("packages.txt", FILE, packages.as_bytes())])
    }

    pub(crate) fn job(&self, commit: CommitSha, change: impl FnOnce(&mut YumMirrorAction)) -> StepJob {
        let target: TargetName = "mirror".parse().unwrap();
        let mut action = YumMirrorAction {
            target: target.clone(),
            file: "packages.txt".into(),
            check: false,
            snapshot: None,
        };
        change(&mut action);
        let reach = match &self.sshd {
            Some(sshd) => Reach::Ssh(sshd.target()),
            None => Reach::Local,
        };
        let mirror = Mirror {
            root: self.root.to_str().unwrap().to_owned(),
            url: self.web.url.parse().unwrap(),
            ca_pem: self.ca.clone(),
            upstreams: Vec::new(),
            keep: 2,
        };
        let mut job = self.steps.job("mirror", Action::YumMirror(action));
        job.commit = commit;
        job.hints = vec!["refs/heads/main".parse().unwrap()];
        job.target = Some(Arc::new(Target {
            name: target,
            reach,
            mirror: Some(mirror),
            engine: "/var/run/docker.sock".to_owned(),
        }));
        job
    }

    /// A merge of a list, to its end.
    pub(crate) async fn merge(&self, packages: &str) -> Done {
        let commit = self.list(packages);
        self.start(self.job(commit, |_| {})).end().await
    }

    pub(crate) fn start(&self, job: StepJob) -> Running {
        let (log, lines) = LogSink::channel(job.masker(), 64 << 20);
        let cx = StepContext {
            ledger: Arc::clone(&self.book) as _,
            ..StepContext::new(log, CancellationToken::new())
        };
        let executor = Arc::clone(&self.steps.executor);
        Running { task: tokio::spawn(async move { executor.run(job, cx).await }), lines, said: Vec::new() }
    }

    /// File names of the packages that are served.
    pub(crate) fn served(&self) -> Vec<String> {
        names(&self.root.join("current/Packages"))
    }

    /// Which snapshot is served.
    pub(crate) fn digest(&self) -> Digest {
        let name = std::fs::read_link(self.root.join("current")).unwrap();
        format!("sha256:{}", name.file_name().unwrap().to_str().unwrap()).parse().unwrap()
    }

    /// What dnf of a client finds there.
    pub(crate) async fn client_finds(&self) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        let option = |key: &str| format!("--setopt={key}={}", home.path().display());
        let output = tokio::process::Command::new("dnf")
            .args(["-q", &format!("--repofrompath=m,{}", self.web.url), "--repo=m"])
            .args([option("cachedir"), option("persistdir"), option("logdir"), option("reposdir")])
            .args([
                "--installroot",
                home.path().to_str().unwrap(),
                "--releasever=9",
                "repoquery",
                "--qf",
                "%{name}-%{epoch}:%{version}-%{release}.%{arch}",
            ])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A step that goes on.
pub(crate) struct Running {
    task: JoinHandle<StepOutcome>,
    lines: mpsc::Receiver<LogLine>,
    said: Vec<String>,
}

/// How a step ended, and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcome: StepOutcome,
    pub(crate) said: Vec<String>,
}

impl Running {
    /// Waits for a line.
    pub(crate) async fn says(&mut self, part: &str) {
        while !self.said.last().is_some_and(|line| line.contains(part)) {
            let line = tokio::time::timeout(MINUTE, self.lines.recv()).await.unwrap();
            self.said.push(line.unwrap_or_else(|| panic!("`{part}` was never said: {:#?}", self.said)).text);
        }
    }

    /// As when the server is killed: nothing more is said to anybody.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn end(mut self) -> Done {
        while let Some(line) = self.lines.recv().await {
            self.said.push(line.text);
        }
        Done { outcome: self.task.await.unwrap(), said: self.said }
    }
}

impl Done {
    /// The summary of a success.
    pub(crate) fn summary(&self) -> &str {
        match &self.outcome {
            StepOutcome::Success { outputs } => &outputs["summary"],
            other => panic!("{other:?}\n{}", self.said.join("\n")),
        }
    }

    /// The message of a failure.
    pub(crate) fn failure(&self) -> &str {
        match &self.outcome {
            StepOutcome::Failure { message } => message,
            other => panic!("{other:?}\n{}", self.said.join("\n")),
        }
    }

    /// The difference it told.
    pub(crate) fn changes(&self) -> Vec<&str> {
        let changes = self.said.iter().map(String::as_str);
        changes.filter(|line| line.starts_with("+ ") || line.starts_with("- ")).collect()
    }
}

/// What was written down, each line with what was served at that moment.
pub(crate) struct Book {
    current: PathBuf,
    lines: Mutex<Vec<String>>,
    live: Mutex<(Option<Digest>, Option<Digest>)>,
}

impl Book {
    /// All since the last time.
    pub(crate) fn read(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    fn write(&self, line: String) {
        let served = std::fs::read_link(&self.current);
        let served = served
            .map_or("nothing".to_owned(), |link| link.file_name().unwrap().to_str().unwrap()[..6].to_owned());
        self.lines.lock().unwrap().push(format!("{line} while {served} is served"));
    }
}

impl Ledger for Book {
    fn live<'a>(
        &'a self,
        _: &'a TargetName,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Digest>, LedgerError>> {
        Box::pin(async { Ok(self.live.lock().unwrap().1) })
    }

    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<DeploymentId, LedgerError>> {
        let before = intent.before.map_or("nothing".to_owned(), |digest| digest.hex()[..6].to_owned());
        self.write(format!("begin {} after {before}", &intent.digest.hex()[..6]));
        self.live.lock().unwrap().0 = Some(intent.digest);
        Box::pin(async { Ok(DeploymentId(1)) })
    }

    fn end(&self, _: DeploymentId, verdict: Verdict) -> BoxFuture<'_, Result<(), LedgerError>> {
        let mut live = self.live.lock().unwrap();
        let word = match verdict {
            Verdict::Healthy { .. } => {
                live.1 = live.0;
                "healthy"
            }
            Verdict::RolledBack { .. } => "rolled back",
            Verdict::Failed { .. } => "failed",
        };
        self.write(word.to_owned());
        Box::pin(async { Ok(()) })
    }
}
