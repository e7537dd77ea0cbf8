//! From a merge to a version that is live on this machine's Docker, beside the same commands typed by
//! hand: build, push, pull, run, ask until it answers, remove the old one.
//!
//! By hand means: the commit is checked out already and the login is done; two ports take turns,
//! because nothing stands before the containers, so every switch would have to be told to somebody.
//! What mergeyard does beyond that counts against it. Both sides take turns.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mergeyard_server::sample::{SampleMerge, SampleRepository};

use crate::{
    Bench, Failed,
    process::{Mergeyard, free},
    publish::{FOLDER, Hand, by_hand_is, fed},
    table::{Aims, Table, median, millis},
};

const AIM: f64 = 1.1;

/// A small service that ends when it is asked to.
const SERVE: &str = "use IO::Socket::INET; $SIG{TERM} = sub { exit 0 }; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 128, ReuseAddr => 1) or die; while (my $c = $s->accept) { while (<$c>) { last if $_ eq \"\\r\\n\" } print $c \"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nok\\n\"; close $c }\n";

const DOCKERFILE: &str = "FROM debian:bookworm-slim\nCOPY serve.pl change /app/\nRUN sha256sum /app/* >/app/sums\nCMD [\"perl\", \"/app/serve.pl\"]\n";

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let folder = bench.folder.join("deploy");
    std::fs::create_dir_all(&folder)?;
    let mut yard = Side::new(&folder, "live")?;
    let mut typed = Side::new(&folder, "typed-live")?;
    let rights = format!(
        "[[repo]]\nname = \"{}\"\nbranches = [\"develop\"]\ntargets = [\"here\"]\nclone_url = \"{}\"\n[[target]]\nname = \"here\"\nkind = \"local\"\n",
        yard.sample.name(),
        yard.sample.hosted().clone_url
    );
    let server = Mergeyard::start(bench, &folder, &rights).await?;
    let hand = Hand::new(&folder, &server, &typed.sample).await?;
    println!(
        "\ndeploy: merge → live on this machine; {}, then `pull`, `run`, `curl`, `rm`",
        by_hand_is(&hand)
    );
    let took = turns(bench, &server, &hand, &mut yard, &mut typed).await;
    server.program.kill().await?;
    forget(&hand, &[&yard, &typed]).await?;
    let Took { ours, theirs, checkout } = took?;
    let ratios: Vec<u64> =
        ours.iter().zip(&theirs).map(|(a, b)| (a.as_secs_f64() / b.as_secs_f64() * 1000.0) as u64).collect();
    let ratio = median(&ratios) as f64 / 1000.0;
    let mut table = Table::new(&["", "mergeyard", "by hand", "median of turns", "git by hand"]);
    table.row([
        "merge → live, the old one removed".to_owned(),
        millis(median(&ours)),
        millis(median(&theirs)),
        format!("{ratio:.2}×"),
        millis(median(&checkout)),
    ]);
    table.print();
    aims.add(ratio <= AIM, format!("merge → live: at most {AIM}× by hand"), format!("{ratio:.2}×"));
    Ok(())
}

#[derive(Default)]
struct Took {
    ours: Vec<Duration>,
    theirs: Vec<Duration>,
    checkout: Vec<Duration>,
}

async fn turns(
    bench: &Bench,
    server: &Mergeyard,
    hand: &Hand,
    yard: &mut Side,
    typed: &mut Side,
) -> Result<Took, Failed> {
    // Both sides bring the base image and their first version before anything is measured.
    deploy(server, yard).await?;
    by_hand(hand, typed).await?;
    let mut took = Took::default();
    for turn in 0..bench.pick(2, 9) {
        for first in [turn % 2 == 0, turn % 2 != 0] {
            match first {
                true => {
                    yard.change()?;
                    took.ours.push(deploy(server, yard).await?);
                }
                false => {
                    typed.change()?;
                    took.checkout.push(hand.check_out().await?);
                    took.theirs.push(by_hand(hand, typed).await?);
                }
            }
        }
    }
    Ok(took)
}

/// One side's repository, and the versions it has had.
struct Side {
    name: &'static str,
    sample: SampleRepository,
    merge: SampleMerge,
    version: u32,
    /// Where its versions are offered, in turns where there is nobody else to switch.
    ports: [u16; 2],
}

impl Side {
    fn new(folder: &Path, name: &'static str) -> Result<Self, Failed> {
        let ports = [free()?.port(), free()?.port()];
        let pipeline = format!(
            "when: {{event: pull_request_merged}}\nskip_clone: true\nsteps:\n  - {{name: image, uses: image, with: {{folder: {FOLDER}}}}}\n  \
             - name: live\n    uses: rollout\n    with: {{target: here, image: bench-{name}, port: 8080, publish: '127.0.0.1:{}', network: bench-{name}, health: /}}\n",
            ports[0]
        );
        let mut files = files(name, 0);
        files.push((".mergeyard.yml".to_owned(), pipeline.into_bytes()));
        let (sample, merge) = SampleRepository::create(
            &folder.join(format!("{name}.git")),
            format!("acme/{name}").parse()?,
            &borrowed(&files),
        )?;
        Ok(Self { name, sample, merge, version: 0, ports })
    }

    fn change(&mut self) -> Result<(), Failed> {
        self.version += 1;
        let files = files(self.name, self.version);
        self.merge = self.sample.merge_change("Change it", &borrowed(&files))?;
        Ok(())
    }

    fn tag(&self, registry: &str, version: u32) -> String {
        format!("{registry}/bench-{}:1.0.{version}", self.name)
    }

    fn container(&self, version: u32) -> String {
        format!("bench-{}-{version}", self.name)
    }
}

fn files(name: &str, version: u32) -> Vec<(String, Vec<u8>)> {
    let spec = format!(r#"{{"service":{{"name":"bench-{name}","version":"1.0.{version}"}}}}"#);
    let change = format!("{name} {version} {}", std::process::id());
    let all = [("Dockerfile", DOCKERFILE), ("spec.json", &spec), ("serve.pl", SERVE), ("change", &change)];
    all.map(|(file, text)| (format!("{FOLDER}/{file}"), text.as_bytes().to_vec())).into()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
}

/// From the first byte of the webhook to the end of the run.
async fn deploy(server: &Mergeyard, yard: &Side) -> Result<Duration, Failed> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let begin = Instant::now();
    server.announce(&client, &yard.sample, &yard.merge).await?;
    let run = i64::from(yard.version) + 1;
    server.follow(&client, run, |told| told["run"]["state"] == "success").await?;
    Ok(begin.elapsed())
}

async fn by_hand(hand: &Hand, typed: &Side) -> Result<Duration, Failed> {
    let tag = typed.tag(&hand.registry, typed.version);
    let begin = Instant::now();
    hand.publish(&tag, hand.builder).await?;
    let docker = async |arguments: &[&str]| {
        let mut command = hand.docker(hand.builder);
        command.args(arguments);
        fed(command, b"").await
    };
    docker(&["pull", "--quiet", &tag]).await?;
    let port = typed.ports[typed.version as usize % 2];
    let publish = format!("127.0.0.1:{port}:8080");
    let name = typed.container(typed.version);
    docker(&[
        "run",
        "--detach",
        "--restart=unless-stopped",
        "--init",
        "--publish",
        &publish,
        "--name",
        &name,
        &tag,
    ])
    .await?;
    let mut curl = tokio::process::Command::new("sh");
    curl.args(["-c", "until curl --silent --fail --output /dev/null \"$0\"; do sleep 0.05; done"]);
    curl.arg(format!("http://127.0.0.1:{port}/"));
    fed(curl, b"").await?;
    if let Some(before) = typed.version.checked_sub(1) {
        docker(&["rm", "--force", &typed.container(before)]).await?;
    }
    Ok(begin.elapsed())
}

/// All that stays on a target by design.
async fn forget(hand: &Hand, sides: &[&Side]) -> Result<(), Failed> {
    for side in sides {
        let service = format!("bench-{}", side.name);
        let script = format!(
            "docker ps -aq --filter label=mergeyard.service={service} | xargs -r docker rm -f; \
             docker ps -aq --filter name='^/{service}-[0-9]+$' | xargs -r docker rm -f; \
             docker volume rm mergeyard-gateway-{service}; docker network rm {service}; \
             docker images -q --filter 'reference={}/{service}' | xargs -r docker rmi -f",
            hand.registry
        );
        let mut shell = tokio::process::Command::new("sh");
        // What one side never had is not there to be removed.
        shell.args(["-c", &format!("{script}; true")]);
        fed(shell, b"").await?;
    }
    Ok(())
}
