//! Stock clients log in as robots, and read without a name what is open to everybody.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use mergeyard_registry::{Act, Config, Robots};
use mergeyard_types::{Secret, Timestamp};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};
use uuid::Uuid;

use crate::{
    clients::{certificates, layout::write_image},
    rights::open_to_everybody,
    robots::wanted,
    tls::Served,
    yard::{name, tag},
};

use mergeyard_registry::Right::{Pull, Push};

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_a_token_where_the_challenge_sends_it() {
    let site = Site::start(Config::default());
    let (host, ca) = (site.host(), site.served.ca().display().to_string());
    let refused =
        run("curl", &["--silent", "--include", "--cacert", &ca, &format!("https://{host}/v2/_catalog")])
            .await;
    let head = String::from_utf8(refused.stdout).unwrap();
    // Over HTTP/2 names are in lower case, and the host is not in a header.
    assert!(head.starts_with("HTTP/2 401"), "{head}");
    let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).unwrap();
    let realm = format!("https://{host}/token");
    assert_eq!(
        challenge,
        format!("Bearer realm=\"{realm}\",service=\"{host}\",scope=\"registry:catalog:*\"")
    );

    let user = format!("ci:{}", site.secret.expose());
    let scope = "scope=registry:catalog:*";
    let fetch = ["--silent", "--get", "--cacert", &ca, "--user", &user, "--data-urlencode", scope, &realm];
    let told: Value = serde_json::from_slice(&run("curl", &fetch).await.stdout).unwrap();
    let bearer = format!("Authorization: Bearer {}", told["token"].as_str().unwrap());
    for version in ["--http1.1", "--http2"] {
        let address = format!("https://{host}/v2/_catalog");
        let listed =
            run("curl", &["--silent", version, "--cacert", &ca, "--header", &bearer, &address]).await;
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "{\"repositories\":[]}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_logs_in_as_a_robot_and_reads_what_is_open_without_a_login() {
    let site = Site::start(open_to_everybody("acme/open"));
    let digest = write_image(&site.path("layout"));
    let source = format!("oci:{}:0.1.0", site.path("layout").display());
    let mut said =
        site.skopeo(&["login", "--username", "ci", "--password-stdin", &site.host()], "wrong").await;
    assert!(!said.status.success());
    said = site
        .skopeo(&["login", "--username", "ci", "--password-stdin", &site.host()], site.secret.expose())
        .await;
    assert!(said.status.success(), "{said:?}");
    for repository in ["acme/clock", "acme/open"] {
        said = site.skopeo(&["copy", &source, &site.image(repository)], "").await;
        assert!(said.status.success(), "{said:?}");
        said = site.skopeo(&["inspect", "--format", "{{.Digest}}", &site.image(repository)], "").await;
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), digest.to_string(), "{said:?}");
    }
    let stored =
        site.served.yard.registry.manifest(&name("acme/clock"), &tag("0.1.0")).await.unwrap().unwrap();
    assert_eq!(stored.digest, digest);
    said = site.skopeo(&["copy", &source, &site.image("other/clock")], "").await;
    assert!(!said.status.success());
    assert!(String::from_utf8_lossy(&said.stderr).contains("may not push to"), "{said:?}");

    said = site.skopeo(&["logout", &site.host()], "").await;
    assert!(said.status.success(), "{said:?}");
    let back = format!("oci:{}:0.1.0", site.path("back").display());
    said = site.skopeo(&["copy", &site.image("acme/open"), &back], "").await;
    assert!(said.status.success(), "{said:?}");
    for closed in ["acme/clock", "acme/none"] {
        said = site.skopeo(&["inspect", &site.image(closed)], "").await;
        assert!(String::from_utf8_lossy(&said.stderr).contains("authentication required"), "{said:?}");
    }
    said = site.skopeo(&["copy", &source, &site.image("acme/open")], "").await;
    assert!(!said.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_as_a_robot_pushes_mounts_and_pulls_until_it_is_revoked() {
    let site = Site::start(Config::default());
    let mut events = site.served.yard.registry.subscribe();
    let (host, one) = (site.host(), format!("{}/acme/clock:0.1.0", site.host()));
    let two = format!("{host}/acme/other:0.1.0");
    let _images = Images(vec![one.clone(), two.clone()]);
    let layer = site.path("layer.tar");
    // Never the same bytes twice: the engine would know the layer, and not ask the registry.
    write_tar(&layer, Uuid::new_v4().as_bytes());
    site.docker(&["import", &layer.display().to_string(), &one], "").await.good();

    site.docker(&["push", &one], "").await.bad("authentication required");
    site.docker(&["login", "--username", "ci", "--password-stdin", &host], "wrong").await.bad("unauthorized");
    site.docker(&["login", "--username", "ci", "--password-stdin", &host], site.secret.expose()).await.good();
    site.docker(&["push", &one], "").await.good();
    let event = events.recv().await.unwrap();
    assert_eq!((event.act, event.by.as_str()), (Act::Pushed, "ci"));
    site.docker(&["tag", &one, &two], "").await.good();
    let pushed = site.docker(&["push", &two], "").await.good();
    assert!(pushed.contains("Mounted from acme/clock"), "{pushed}");
    site.docker(&["rmi", &one, &two], "").await.good();
    site.docker(&["pull", &one], "").await.good();
    let elsewhere = format!("{host}/other/clock:0.1.0");
    site.docker(&["pull", &elsewhere], "").await.bad("does not exist, or `ci` may not read it");

    site.robots.revoke(&"ci".parse().unwrap()).unwrap();
    site.docker(&["pull", &one], "").await.bad("unauthorized");
}

/// A served registry with the robot `ci`, which may pull and push in `acme/`.
struct Site {
    served: Served,
    robots: Robots,
    secret: Secret,
    certificates: String,
}

impl Site {
    fn start(config: Config) -> Self {
        let served = Served::start(config);
        let robots = Robots::open(&served.yard.path(""));
        let secret = robots.create(wanted("ci", &[Pull, Push]), Timestamp::now()).unwrap();
        let certificates = certificates(served.yard.directory.path(), "certificates", &served.ca());
        Self { served, robots, secret, certificates }
    }

    fn host(&self) -> String {
        self.served.address.to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.served.yard.directory.path().join(name)
    }

    fn image(&self, repository: &str) -> String {
        format!("docker://{}/{repository}:0.1.0", self.host())
    }

    async fn skopeo(&self, arguments: &[&str], input: &str) -> Output {
        let [command, rest @ ..] = arguments else { panic!() };
        let trust = match *command {
            "copy" => &["--src-cert-dir", &self.certificates, "--dest-cert-dir", &self.certificates][..],
            "logout" => &[],
            _ => &["--cert-dir", &self.certificates],
        };
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", command, "--authfile"]).arg(self.path("auth.json"));
        skopeo.args(trust).args(rest).env("HOME", self.path(""));
        told(skopeo, input).await
    }

    /// With a configuration of its own, so that nobody's login is touched or used.
    async fn docker(&self, arguments: &[&str], input: &str) -> Said {
        let mut docker = Command::new("docker");
        docker.arg("--config").arg(self.path("docker")).args(arguments);
        Said(told(docker, input).await)
    }
}

struct Said(Output);

impl Said {
    #[track_caller]
    fn good(self) -> String {
        assert!(self.0.status.success(), "{:?}", self.0);
        String::from_utf8(self.0.stdout).unwrap()
    }

    #[track_caller]
    fn bad(self, why: &str) {
        assert!(!self.0.status.success(), "{:?}", self.0);
        assert!(String::from_utf8_lossy(&self.0.stderr).contains(why), "{:?}", self.0);
    }
}

/// Leaves nothing of a test in the engine.
struct Images(Vec<String>);

impl Drop for Images {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "--force"]).args(&self.0).output();
    }
}

async fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    told(command, "").await
}

async fn told(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a client is missing: scripts/setup.sh installs it");
    // A program that needs no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    child.wait_with_output().await.unwrap()
}

fn write_tar(path: &Path, content: &[u8]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "clock", content).unwrap();
    tar.finish().unwrap();
}
