//! The command line. Exit code 0: good. 1: the work failed. 2: used wrongly.

#[macro_use]
pub(crate) mod text;

mod approve;
mod cancel;
mod deliveries;
mod demo;
mod deployments;
mod gateway;
mod home;
mod hook;
mod lint;
mod plan;
mod registry;
mod rehearsal;
mod rerun;
mod rollback;
mod run;
mod secret;
mod serve;
mod target;
mod token;
mod trigger;
mod working_tree;

use std::{
    io::IsTerminal,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use mergeyard_types::RunId;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError};

/// Turns merged pull requests into running software, and can prove every step of the way.
#[derive(Parser)]
#[command(name = "mergeyard", version, max_term_width = 100)]
struct Args {
    /// The configuration file [default: ./mergeyard.toml, then /etc/mergeyard/mergeyard.toml, where there is one]
    #[arg(long, global = true, env = "MERGEYARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receive webhooks, run what they start, show it
    Serve,
    /// The whole main job on this machine with nothing configured
    Demo(demo::Args),
    /// The webhook of a repository at GitHub
    #[command(subcommand)]
    Hook(hook::Command),
    /// What was received, what became of it, and once more
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// The newest deployments and what became of each
    Deployments(deployments::Args),
    /// The machines that runs deliver to
    #[command(subcommand)]
    Target(target::Command),
    /// Stop a run: what waits is cancelled, what runs is ended
    Cancel {
        #[arg(value_parser = text::run)]
        run: RunId,
        /// The reason, shown on the run's page
        #[arg(long, default_value = "cancelled")]
        why: String,
    },
    /// Open, or refuse, what waits for a person
    Approve(approve::Args),
    /// Run the plan of a run that is over once more, or a part of it
    Rerun(rerun::Args),
    /// Start a run by hand
    Trigger(trigger::Args),
    /// Make live again on a target what was live before
    Rollback(rollback::Args),
    /// Tokens of the API
    #[command(subcommand)]
    Token(token::Command),
    /// Secrets of pipelines
    #[command(subcommand)]
    Secret(secret::Command),
    /// Run the pipelines of a working tree, as the server would
    Run(run::Args),
    /// What would run, wait or be skipped, and why; no engine is needed
    Plan(plan::Args),
    /// The JSON Schema of pipeline files, for editors
    Schema,
    /// What is wrong in pipelines, Dockerfiles, spec.json and package lists
    Lint(lint::Args),
    /// The private TLS registry
    #[command(subcommand)]
    Registry(registry::Command),
    /// What forwards connections on a target; rollouts start it
    #[command(subcommand, hide = true)]
    Gateway(gateway::Command),
}

impl Command {
    /// Reads or writes files and says something about them: nothing is connected to, nothing is left to
    /// be cleared away.
    fn only_tells(&self) -> bool {
        use deliveries::Command::{List, Show};
        matches!(
            self,
            Command::Schema
                | Command::Lint(_)
                | Command::Token(_)
                | Command::Secret(_)
                | Command::Deliveries(List { .. } | Show { .. })
                | Command::Deployments(_)
                | Command::Target(target::Command::List { .. })
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Why a command did not do what it was asked.
enum Failed {
    /// The work failed.
    Work(Box<dyn std::error::Error + Send + Sync>),
    /// The work failed, and what there is to say has been said.
    Told,
    /// It was asked for wrongly.
    Usage(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::Work(Box::new(error))
    }
}

impl Failed {
    fn work(message: impl Into<String>) -> Self {
        Failed::Work(message.into().into())
    }
}

pub fn main() -> ExitCode {
    let args = Args::parse();
    let verbose = match &args.command {
        Command::Serve => true,
        Command::Registry(command) => command.serves(),
        Command::Gateway(gateway::Command::Serve { .. }) => true,
        _ => false,
    };
    if args.command.only_tells() {
        // `mergeyard … | head` ends like any other program: without a word. Not where there are
        // connections: a peer that hangs up would end the program too, with its work half done.
        sigpipe::reset();
    }
    start_tracing(if verbose { "info" } else { "warn" });
    raise_descriptor_limit();
    // One provider for every TLS connection of the process, chosen before the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Told) => ExitCode::FAILURE,
        Err(Failed::Work(error)) => {
            complain(&*error);
            ExitCode::FAILURE
        }
        Err(Failed::Usage(error)) => {
            complain(&*error);
            ExitCode::from(2)
        }
    }
}

/// The usual soft limit of 1,024 is fewer than the connections that are let in.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn run(args: Args) -> Result<(), Failed> {
    let config = || load(args.config.clone());
    match args.command {
        Command::Serve => serve::serve(args.config).await,
        Command::Demo(demo) => demo::demo(demo).await,
        Command::Hook(command) => hook::hook(config()?, command).await,
        Command::Deliveries(command) => deliveries::deliveries(config()?, command).await,
        Command::Deployments(args) => deployments::deployments(config()?, args).await,
        Command::Target(command) => target::target(config()?, command).await,
        Command::Cancel { run, why } => cancel::cancel(config()?, run, &why).await,
        Command::Approve(args) => approve::approve(config()?, args).await,
        Command::Rerun(args) => rerun::rerun(config()?, args).await,
        Command::Trigger(args) => trigger::trigger(config()?, args).await,
        Command::Rollback(args) => rollback::rollback(config()?, args).await,
        Command::Token(command) => token::token(config()?, command).await,
        Command::Secret(command) => secret::secret(config()?, command).await,
        Command::Run(run) => run::run(run, args.config).await,
        Command::Plan(plan) => plan::plan(plan, args.config).await,
        Command::Schema => {
            say!("{:#}", mergeyard_plan::spec::schema());
            Ok(())
        }
        Command::Lint(lint) => lint::lint(lint).await,
        Command::Registry(command) => registry::registry(command, args.config).await,
        Command::Gateway(command) => gateway::gateway(command).await,
    }
}

fn load(file: Option<PathBuf>) -> Result<Config, Failed> {
    Config::load(usual_file(file).as_deref(), std::env::vars())
        .map_err(|error: ConfigError| Failed::Usage(Box::new(error)))
}

fn usual_file(file: Option<PathBuf>) -> Option<PathBuf> {
    let usual = ["mergeyard.toml", "/etc/mergeyard/mergeyard.toml"];
    file.or_else(|| usual.map(PathBuf::from).into_iter().find(|path| path.exists()))
}

/// Who is named beside what the command line did.
fn operator() -> String {
    format!("user {} on the command line", rustix::process::getuid().as_raw())
}

/// Files of another user's in the data directory would lock the server out of what it must read.
fn of_this_user(data_dir: &Path) -> Result<(), Failed> {
    let (owner, user) = (std::fs::metadata(data_dir)?.uid(), rustix::process::geteuid().as_raw());
    if owner == user {
        return Ok(());
    }
    let path = data_dir.display();
    let why = format!("{path} belongs to user {owner}, and this is user {user}: run this as that user");
    Err(Failed::Usage(why.into()))
}

fn complain(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}

fn start_tracing(level: &str) {
    let filter = EnvFilter::try_from_env("MERGEYARD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
