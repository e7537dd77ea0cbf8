//! One package more on a yum mirror, however many it has already.
//!
//! By hand means what a person types on the mirror who knows which file is missing: copy it, and
//! `createrepo_c --update`. That asks no upstream, resolves nothing, keeps no snapshot to go back to and
//! proves nothing, so it is no aim; it shows what the metadata alone cost.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use mergeyard_plan::action::{Action, YumMirrorAction};
use mergeyard_run::{
    engine::Engine,
    executor::{Docker, Executor, StepContext, StepJob, StepOutcome},
    git::{GitCache, GitLimits, Remote},
    log::LogSink,
    registry_client::{RegistryAccess, RegistryClient},
    target::{Mirror, Reach, Target},
};
use mergeyard_server::sample::{SampleMerge, SampleRepository};
use mergeyard_types::{RunId, Secret, StepId, WorkflowId};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Bench, Failed,
    table::{Aims, Table, median, millis, ratio},
};

/// For a hundred times as many packages.
const AIM: f64 = 4.0;

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let sizes: &[usize] = bench.pick(&[20, 200], &[20, 200, 2000]);
    let turns = bench.pick(2, 5);
    println!("\nmirror: a merge that adds one package to those that are there");
    let folder = bench.folder.join("mirror");
    let upstream = folder.join("upstream");
    let most = sizes.iter().max().copied().unwrap_or_default() + turns;
    make_upstream(&upstream, most).await?;
    let served = FileServer::start(&upstream).await?;
    let mut table =
        Table::new(&["packages", "merge → proven", "by hand: createrepo_c", "ratio", "all of them at first"]);
    let mut times = Vec::new();
    for existing in sizes {
        let folder = folder.join(existing.to_string());
        let mut yard = Yard::new(&folder, &served, *existing).await?;
        let first = yard.update().await?;
        let (mut ours, mut hand) = (Vec::new(), Vec::new());
        for turn in 0..turns {
            yard.add(existing + turn)?;
            ours.push(yard.update().await?);
            hand.push(by_hand(&folder.join("hand"), &upstream, existing + turn).await?);
        }
        let (mine, theirs) = (median(&ours), median(&hand));
        let times_by_hand = ratio(mine.as_secs_f64(), theirs.as_secs_f64());
        table.row([existing.to_string(), millis(mine), millis(theirs), times_by_hand, millis(first)]);
        times.push(mine.as_secs_f64());
    }
    table.print();
    if let (Some(least), Some(largest)) = (times.first(), times.last()) {
        let (small, large) = (sizes[0], sizes[sizes.len() - 1]);
        let aim = format!("one package more on {large} beside on {small}: at most {AIM:.1}×");
        aims.add(*largest <= AIM * least, aim, ratio(*largest, *least));
    }
    Ok(())
}

/// A mirror on this machine, and the repository whose list it follows.
struct Yard {
    executor: Executor,
    sample: SampleRepository,
    merge: SampleMerge,
    target: Arc<Target>,
    list: String,
    steps: i64,
    _served: FileServer,
}

impl Yard {
    async fn new(folder: &Path, upstream: &FileServer, packages: usize) -> Result<Self, Failed> {
        let root = folder.join("root");
        std::fs::create_dir_all(&root)?;
        let config = format!("[main]\n[bench]\nname=bench\ngpgcheck=0\nbaseurl={}\n", upstream.url);
        std::fs::write(root.join("dnf.conf"), config)?;
        let served = FileServer::start(&root).await?;
        let list = (0..packages).fold(String::new(), |list, at| list + &name(at) + "\n");
        let files: [(&str, &[u8]); 1] = [("packages.txt", list.as_bytes())];
        let (sample, merge) =
            SampleRepository::create(&folder.join("lists.git"), "acme/lists".parse()?, &files)?;
        let git = GitCache::new(folder.join("cache"), GitLimits::default())?;
        let registry = RegistryClient::new(RegistryAccess {
            host: "registry.example.org".parse()?,
            ca_pem: None,
            username: String::new(),
            password: Secret::new(""),
        })?;
        let engine = Engine::at("unix:///var/run/docker.sock");
        let executor = Executor::Docker(Docker::new(git, engine, Arc::new(registry)));
        let mirror = Mirror {
            root: root.display().to_string(),
            url: format!("{}/current/", served.url).parse()?,
            ca_pem: None,
            upstreams: Vec::new(),
            keep: 3,
        };
        let target = Arc::new(Target {
            name: "mirror".parse()?,
            reach: Reach::Local,
            mirror: Some(mirror),
            engine: "/var/run/docker.sock".to_owned(),
        });
        Ok(Self { executor, sample, merge, target, list, steps: 0, _served: served })
    }

    fn add(&mut self, package: usize) -> Result<(), Failed> {
        writeln!(self.list, "{}", name(package))?;
        self.merge = self.sample.merge_change("Add a package", &[("packages.txt", self.list.as_bytes())])?;
        Ok(())
    }

    /// What was merged, until it was read back.
    async fn update(&mut self) -> Result<Duration, Failed> {
        self.steps += 1;
        let action = YumMirrorAction {
            target: self.target.name.clone(),
            file: "packages.txt".to_owned(),
            check: false,
            snapshot: None,
        };
        let job = StepJob {
            step: StepId(self.steps),
            run: RunId(self.steps),
            workflow: WorkflowId(self.steps),
            name: "mirror".to_owned(),
            attempt: 1,
            repo: self.sample.name().clone(),
            commit: self.merge.merge,
            hints: vec![format!("refs/heads/{}", self.merge.base_branch).parse()?],
            remote: Remote { url: self.sample.hosted().clone_url.parse()?, token: None, allow_file: true },
            source_url: None,
            action: Action::YumMirror(action),
            environment: Vec::new(),
            masked: Vec::new(),
            secrets: Vec::new(),
            detached: false,
            followed: false,
            kept_lines: 0,
            target: Some(Arc::clone(&self.target)),
            images: Default::default(),
            timeout: Duration::from_secs(600),
        };
        let (log, mut lines) = LogSink::channel(job.masker(), 64 << 20);
        let cx = StepContext::new(log, CancellationToken::new());
        let begin = Instant::now();
        let drain = async { while lines.recv().await.is_some() {} };
        let (outcome, ()) = tokio::join!(self.executor.run(job, cx), drain);
        match outcome {
            StepOutcome::Success { .. } => Ok(begin.elapsed()),
            other => Err(format!("the mirror was not updated: {other:?}").into()),
        }
    }
}

/// The same package into a plain folder, without asking anybody.
async fn by_hand(folder: &Path, upstream: &Path, package: usize) -> Result<Duration, Failed> {
    if !folder.exists() {
        std::fs::create_dir_all(folder)?;
        for at in 0..package {
            std::fs::hard_link(file(upstream, at), file(folder, at))?;
        }
        index(folder).await?;
    }
    let begin = Instant::now();
    std::fs::copy(file(upstream, package), file(folder, package))?;
    index(folder).await?;
    Ok(begin.elapsed())
}

fn name(package: usize) -> String {
    format!("bench-{package:05}")
}

fn file(folder: &Path, package: usize) -> PathBuf {
    folder.join(format!("{}-1-1.noarch.rpm", name(package)))
}

/// Small packages, as many as are wanted, of which every tenth needs the one before.
async fn make_upstream(folder: &Path, packages: usize) -> Result<(), Failed> {
    let build = folder.with_extension("build");
    std::fs::create_dir_all(&build)?;
    std::fs::create_dir_all(folder)?;
    let mut spec = "Name: bench\nVersion: 1\nRelease: 1\nSummary: bench\nLicense: MIT\nBuildArch: noarch\n\
                    %description\nbench\n"
        .to_owned();
    for at in 0..packages {
        let needs = match at % 10 {
            9 => format!("Requires: {}\n", name(at - 1)),
            _ => String::new(),
        };
        let name = name(at);
        write!(
            spec,
            "%package -n {name}\nSummary: {name}\n{needs}%description -n {name}\n{name}\n%files -n {name}\n"
        )?;
    }
    std::fs::write(build.join("bench.spec"), spec)?;
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.args(["-bb", "--quiet", "--define", &format!("_topdir {}", build.display())]);
    good(rpmbuild.arg(build.join("bench.spec"))).await?;
    for at in 0..packages {
        std::fs::rename(file(&build.join("RPMS/noarch"), at), file(folder, at))?;
    }
    index(folder).await
}

async fn index(folder: &Path) -> Result<(), Failed> {
    good(Command::new("createrepo_c").args(["--quiet", "--no-database", "--update"]).arg(folder)).await
}

async fn good(command: &mut Command) -> Result<(), Failed> {
    let output = command.stdin(Stdio::null()).output().await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Python's, in a process of its own.
struct FileServer {
    url: String,
    _process: Child,
}

impl FileServer {
    async fn start(folder: &Path) -> Result<Self, Failed> {
        let mut process = Command::new("python3")
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("a file server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let port = line.split("port ").nth(1).and_then(|rest| rest.split(' ').next());
        let port = port.ok_or_else(|| format!("the file server did not say its port: {line}"))?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), _process: process })
    }
}
