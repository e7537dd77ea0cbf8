//! A registry with one thing wrong at a time, over real TLS, and what the doctor says to it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, response::IntoResponse};
use http::{HeaderMap, StatusCode, header};
use mergeyard_registry as registry;
use mergeyard_run::engine::RegistryCredentials;
use mergeyard_server::{
    config::Embedded,
    data_dir::DataDir,
    doctor::{Finding, KnownAuthority, Level, Machine, Own, Subject, examine, mend, report},
};
use mergeyard_types::{Secret, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const PASSWORD: &str = "rAnd0mPasswordOfTheYard";

/// The clock of all stories: 2027-01-15 08:00:00Z.
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DATE: &str = "Fri, 15 Jan 2027 08:00:00 GMT";

type Signer = CertifiedIssuer<'static, KeyPair>;

fn signer(name: &str, by: Option<&Signer>) -> Signer {
    let mut params = valid(CertificateParams::default(), 2020, 2050);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = named(name);
    let key = KeyPair::generate().unwrap();
    match by {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(by) => CertifiedIssuer::signed_by(params, key, by).unwrap(),
    }
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut named = rcgen::DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn valid(mut params: CertificateParams, from: i32, until: i32) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    params
}

/// What a server shows, which is right unless a story changes it.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

fn shown(by: &Signer, host: &str, from: i32, until: i32) -> Shown {
    let mut params = valid(CertificateParams::new(vec![host.to_owned()]).unwrap(), from, until);
    params.distinguished_name = named("the registry");
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, by).unwrap();
    Shown { chain: vec![leaf.der().clone()], key }
}

fn config(shown: &Shown, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(shown.chain.clone(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// How the HTTP side behaves, with `ADDRESS` for where it is.
#[derive(Clone)]
struct Manners {
    status: StatusCode,
    challenge: &'static str,
    body: &'static str,
    version: &'static str,
    date: &'static str,
    accepts: &'static str,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            challenge: r#"Basic realm="r""#,
            body: r#"{"errors":[{"code":"UNAUTHORIZED","message":"sign in"}]}"#,
            version: "registry/2.0",
            date: DATE,
            accepts: PASSWORD,
        }
    }
}

struct Server {
    address: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn serve(tls: Option<Arc<ServerConfig>>, manners: Manners) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(async move |uri: http::Uri, headers: HeaderMap| {
        answer(&manners, address, uri.path(), &headers)
    });
    let limits = registry::Limits::default();
    let serving = tokio::spawn(registry::serve_app(listener, app, tls, limits, std::future::pending()));
    Server { address, serving }
}

fn answer(
    manners: &Manners,
    address: SocketAddr,
    path: &str,
    headers: &HeaderMap,
) -> axum::response::Response {
    use credentials::basic;
    let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_right = said == basic("yard", manners.accepts) || said == "Bearer good";
    let date = (header::DATE, manners.date.to_owned());
    match (path, is_right) {
        ("/token", true) => ([date], r#"{"token":"good"}"#).into_response(),
        ("/v2/", true) => ([date], "{}").into_response(),
        _ => {
            let challenge = manners.challenge.replace("ADDRESS", &address.to_string());
            let version = header::HeaderName::from_static("docker-distribution-api-version");
            let headers =
                [date, (header::WWW_AUTHENTICATE, challenge), (version, manners.version.to_owned())];
            (manners.status, headers, manners.body).into_response()
        }
    }
}

mod credentials {
    /// The one header a client sends, made by the library that clients use.
    pub(super) fn basic(user: &str, password: &str) -> String {
        let request =
            reqwest::Client::new().get("http://x/").basic_auth(user, Some(password)).build().unwrap();
        request.headers()[reqwest::header::AUTHORIZATION].to_str().unwrap().to_owned()
    }
}

/// A machine of its own, with nothing installed.
struct Place {
    folder: TempDir,
    root: Signer,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), root: signer("Company root", None) };
        place.write("etc/ssl/certs/ca-certificates.crt", &place.root.pem());
        place
    }

    fn machine(&self) -> Machine {
        Machine::below(self.folder.path().join("root"), "unix:///nowhere/docker.sock".to_owned())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn subject(&self, host: &str, trusted: &Signer) -> Subject {
        let path = self.folder.path().join("ca.pem");
        fs::write(&path, trusted.pem()).unwrap();
        let login =
            RegistryCredentials { username: "yard".to_owned(), password: Secret::new(PASSWORD.to_owned()) };
        Subject {
            host: host.parse().unwrap(),
            authority: Some(KnownAuthority { path, pem: trusted.pem().into_bytes() }),
            login: Some(login),
            own: None,
        }
    }

    /// What is not as it should be, without what differs from run to run.
    fn told(&self, findings: &[Finding], address: SocketAddr) -> String {
        assert!(!serde_json::to_string(findings).unwrap().contains(PASSWORD));
        let bad: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).cloned().collect();
        let text = if bad.is_empty() { findings } else { &bad };
        let report = report("", text, false);
        let folder = self.folder.path().display().to_string();
        report
            .trim()
            .replace(&address.to_string(), "ADDRESS")
            .replace(&address.port().to_string(), "PORT")
            .replace(&folder, "")
    }

    async fn looked_at(&self, server: &Server, subject: &Subject, now: Timestamp) -> String {
        self.told(&examine(subject, &self.machine(), now).await, server.address)
    }
}

#[tokio::test]
async fn everything_right_is_said_in_a_line_each() {
    let place = Place::new();
    let server = serve(
        Some(config(&shown(&place.root, "127.0.0.1", 2020, 2028), rustls::ALL_VERSIONS)),
        Manners::default(),
    );
    let subject = place.subject(&server.address.to_string(), &place.root);
    insta::assert_snapshot!(place.looked_at(&server, &subject, NOW).await, @r"
    ok       authority     the authority `Company root` in /ca.pem is good until 2050-01-01
      ok       connection    ADDRESS answers
      ok       tls           TLS 1.2 and 1.3, HTTP/2
      ok       clock         the clocks here and at ADDRESS agree
      ok       api           https://ADDRESS/v2/ answers 401 as a registry does
      ok       login         `yard` is let in
      ok       certificate   good for another 350 days, until 2028-01-01
      ok       certificate   it is for `127.0.0.1`
      ok       trust         the authority in /ca.pem signed it
      ok       engine        Docker is not installed
      ok       podman        podman, skopeo and buildah are not installed
      ok       containerd    containerd is not installed
      ok       system trust  curl and other programs trust its authority too

    everything is as it should be
    ");
}

#[tokio::test]
async fn each_broken_certificate_has_its_own_sentence_and_what_mends_it() {
    let place = Place::new();
    let root = &place.root;
    let other = signer("Somebody else", None);
    let between = signer("Company servers", Some(root));
    let with = |mut shown: Shown, more: &[&Signer]| {
        shown.chain.extend(more.iter().map(|signer| signer.der().clone()));
        shown
    };
    let own = {
        let mut params = valid(CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap(), 2020, 2050);
        params.distinguished_name = named("the registry");
        let key = KeyPair::generate().unwrap();
        Shown { chain: vec![params.self_signed(&key).unwrap().der().clone()], key }
    };
    let good = |by: &Signer| shown(by, "127.0.0.1", 2020, 2050);
    let cases = [
        ("a good chain over an authority in between", with(good(&between), &[&between])),
        ("expired", shown(root, "127.0.0.1", 2020, 2027)),
        ("not yet valid", shown(root, "127.0.0.1", 2030, 2050)),
        ("another host", shown(root, "registry.example.org", 2020, 2050)),
        ("no host and expired", shown(&other, "registry.example.org", 2020, 2025)),
        ("self-signed", own),
        ("another authority, sent", with(good(&other), &[&other])),
        ("another authority, not sent", good(&other)),
        ("incomplete", good(&between)),
        ("in the wrong order", with(good(&between), &[root, &between])),
    ];
    let mut told = String::new();
    for (case, shown) in &cases {
        let server = serve(Some(config(shown, rustls::ALL_VERSIONS)), Manners::default());
        let subject = place.subject(&server.address.to_string(), root);
        let said = place.looked_at(&server, &subject, NOW).await;
        let said = if said.contains("as it should be") { "nothing is wrong".to_owned() } else { said };
        told += &format!("{case}:\n  {said}\n\n");
    }
    insta::assert_snapshot!(told, @r"
    a good chain over an authority in between:
      nothing is wrong

    expired:
      warning  login        the login was not tried: its password is not sent to a server that is not verified
      error    certificate  the certificate of ADDRESS expired on 2027-01-01
                              renew it on the machine that serves ADDRESS

    1 error, 1 warning

    not yet valid:
      warning  login        the login was not tried: its password is not sent to a server that is not verified
      error    certificate  the certificate of ADDRESS is valid only from 2030-01-01, and here it is 2027-01-15
                              set the clock of whichever machine is wrong: timedatectl set-ntp true

    1 error, 1 warning

    another host:
      warning  login        the login was not tried: its password is not sent to a server that is not verified
      error    certificate  the certificate is for `registry.example.org`, not for `127.0.0.1`
                              use a name it has, or give the server a certificate for `127.0.0.1`

    1 error, 1 warning

    no host and expired:
      warning  login        the login was not tried: its password is not sent to a server that is not verified
      error    certificate  the certificate of ADDRESS expired on 2025-01-01
                              renew it on the machine that serves ADDRESS
      error    certificate  the certificate is for `registry.example.org`, not for `127.0.0.1`
                              use a name it has, or give the server a certificate for `127.0.0.1`
      error    trust        the chain of ADDRESS is incomplete or its authority unknown: only `the registry` is sent, and its issuer `Somebody else` is not trusted here; /ca.pem holds `Company root`
                              give the server its full chain (`fullchain.pem`, not `cert.pem`); if it has none, put the certificate of `Somebody else` into a file, set `registry.ca` to it, or pass it as --ca FILE

    3 errors, 1 warning

    self-signed:
      warning  login  the login was not tried: its password is not sent to a server that is not verified
      error    trust  the certificate of ADDRESS is signed by nobody but itself (`the registry`); /ca.pem holds `Company root`
                        see it with `openssl s_client -connect ADDRESS -showcerts`; if it is the right one, put it into a file and set `registry.ca` to it, or pass it as --ca FILE

    1 error, 1 warning

    another authority, sent:
      warning  login  the login was not tried: its password is not sent to a server that is not verified
      error    trust  the certificate of ADDRESS leads to `Somebody else`, which is not trusted here; /ca.pem holds `Company root`
                        put the certificate of `Somebody else` into a file, set `registry.ca` to it, or pass it as --ca FILE

    1 error, 1 warning

    another authority, not sent:
      warning  login  the login was not tried: its password is not sent to a server that is not verified
      error    trust  the chain of ADDRESS is incomplete or its authority unknown: only `the registry` is sent, and its issuer `Somebody else` is not trusted here; /ca.pem holds `Company root`
                        give the server its full chain (`fullchain.pem`, not `cert.pem`); if it has none, put the certificate of `Somebody else` into a file, set `registry.ca` to it, or pass it as --ca FILE

    1 error, 1 warning

    incomplete:
      warning  login  the login was not tried: its password is not sent to a server that is not verified
      error    trust  the chain of ADDRESS is incomplete or its authority unknown: only `the registry` is sent, and its issuer `Company servers` is not trusted here; /ca.pem holds `Company root`
                        give the server its full chain (`fullchain.pem`, not `cert.pem`); if it has none, put the certificate of `Company servers` into a file, set `registry.ca` to it, or pass it as --ca FILE

    1 error, 1 warning

    in the wrong order:
      warning  trust  the authority in /ca.pem signed it, but the chain is out of order, which some clients refuse
                        write the server's certificate first, then each one's issuer, into the server's certificate file

    1 warning
    ");
}

#[tokio::test]
async fn each_broken_server_has_its_own_sentence_and_what_mends_it() {
    let place = Place::new();
    let shown = shown(&place.root, "127.0.0.1", 2020, 2050);
    let tls = || Some(config(&shown, rustls::ALL_VERSIONS));
    let usual = Manners::default;
    let bearer = |challenge| Manners { challenge, ..Manners::default() };
    let cases = [
        ("plain HTTP", None, usual()),
        ("TLS 1.2 alone", Some(config(&shown, &[&rustls::version::TLS12])), usual()),
        ("another service", tls(), Manners { status: StatusCode::NOT_FOUND, ..usual() }),
        ("a proxy that eats headers", tls(), Manners { version: "", ..usual() }),
        ("a proxy that eats errors", tls(), Manners { body: "<html>", ..usual() }),
        ("no challenge", tls(), Manners { challenge: "", ..usual() }),
        ("a wrong password", tls(), Manners { accepts: "another", ..usual() }),
        ("a clock behind", tls(), Manners { date: "Fri, 15 Jan 2027 05:00:00 GMT", ..usual() }),
        ("tokens", tls(), bearer(r#"Bearer realm="https://ADDRESS/token",service="ADDRESS""#)),
        (
            "a refused token",
            tls(),
            Manners { accepts: "another", ..bearer(r#"Bearer realm="https://ADDRESS/token""#) },
        ),
        ("a realm without TLS", tls(), bearer(r#"Bearer realm="http://ADDRESS/token""#)),
        ("a realm that is none", tls(), bearer(r#"Bearer realm="token""#)),
        ("a realm nowhere", tls(), bearer(r#"Bearer realm="https://nowhere.invalid/token""#)),
        ("a token endpoint that is none", tls(), bearer(r#"Bearer realm="https://ADDRESS/v2/""#)),
    ];
    let mut told = String::new();
    for (case, tls, manners) in cases {
        let server = serve(tls, manners);
        let subject = place.subject(&server.address.to_string(), &place.root);
        let said = place.looked_at(&server, &subject, NOW).await;
        let said = if said.contains("as it should be") { "nothing is wrong".to_owned() } else { said };
        told += &format!("{case}:\n  {said}\n\n");
    }
    let nobody = Server { address: "127.0.0.1:9".parse().unwrap(), serving: tokio::spawn(async { Ok(()) }) };
    for (case, host) in [("nobody", "127.0.0.1:9"), ("no such name", "nowhere.invalid:9")] {
        let said = place.looked_at(&nobody, &place.subject(host, &place.root), NOW).await;
        told += &format!("{case}:\n  {said}\n\n");
    }
    insta::assert_snapshot!(told, @r"
    plain HTTP:
      error    tls  ADDRESS speaks plain HTTP, and everything here is asked for over TLS
                      give that registry a certificate (mergeyard registry certificate makes one), or correct the port

    1 error

    TLS 1.2 alone:
      nothing is wrong

    another service:
      error    api  https://ADDRESS/v2/ answers 404 Not Found, which no registry does
                      correct the port, or the proxy in front of the registry: /v2/ must reach it unchanged

    1 error

    a proxy that eats headers:
      warning  api  https://ADDRESS/v2/ answers 401 without the header `Docker-Distribution-Api-Version: registry/2.0`
                      let the proxy in front of the registry pass its headers and errors through

    1 warning

    a proxy that eats errors:
      warning  api  https://ADDRESS/v2/ answers 401 without the JSON body that tells clients why
                      let the proxy in front of the registry pass its headers and errors through

    1 warning

    no challenge:
      error    login  the 401 says neither `Basic` nor `Bearer` in WWW-Authenticate, so no client can log in
                        let the proxy in front of the registry pass WWW-Authenticate through

    1 error

    a wrong password:
      error    login  `yard` is not let in with the password that is known here
                        check `registry.username` and `registry.password`

    1 error

    a clock behind:
      warning  clock  the clock here is 3 hours ahead of that of ADDRESS
                        set the clock of whichever machine is wrong: timedatectl set-ntp true

    1 warning

    tokens:
      nothing is wrong

    a refused token:
      error    login  `yard` is not let in with the password that is known here
                        check `registry.username` and `registry.password`

    1 error

    a realm without TLS:
      error    login  tokens are to be asked for at http://ADDRESS/token, where the password would go without TLS
                        let the registry announce its own public address as the realm: set `registry.host`, and in a proxy pass Host on

    1 error

    a realm that is none:
      error    login  tokens are to be asked for at `token`, which is no address
                        let the registry announce its own public address as the realm: set `registry.host`, and in a proxy pass Host on

    1 error

    a realm nowhere:
      error    login  tokens are to be asked for at https://nowhere.invalid/token, and `nowhere.invalid` has no address
                        let the registry announce its own public address as the realm: set `registry.host`, and in a proxy pass Host on

    1 error

    a token endpoint that is none:
      error    login  logging in as `yard` does not work: there is no token in what the token endpoint sends
                        see the log of the registry

    1 error

    nobody:
      error    connection  ADDRESS refuses connections: nothing listens on port PORT
                             start the registry on 127.0.0.1, or correct the port

    1 error

    no such name:
      error    name  `nowhere.invalid` has no address: no name server and no line in /etc/hosts knows it
                       add a DNS record, or a line to /etc/hosts on every client: ADDRESS nowhere.invalid

    1 error
    ");
}

#[tokio::test]
async fn without_a_known_authority_the_systems_decide_and_a_wrong_one_is_told_apart() {
    let place = Place::new();
    let shown = shown(&place.root, "127.0.0.1", 2020, 2050);
    let server = serve(Some(config(&shown, rustls::ALL_VERSIONS)), Manners::default());
    let host = server.address.to_string();
    let unknown = || Subject { authority: None, ..place.subject(&host, &place.root) };
    let by_system = place.looked_at(&server, &unknown(), NOW).await;
    let wrong = place.looked_at(&server, &place.subject(&host, &signer("Somebody else", None)), NOW).await;
    fs::remove_file(place.path("etc/ssl/certs/ca-certificates.crt")).unwrap();
    let by_nobody = place.looked_at(&server, &unknown(), NOW).await;
    insta::assert_snapshot!(format!("{by_system}\n\n{wrong}\n\n{by_nobody}"), @r"
    ok       connection   ADDRESS answers
      ok       tls          TLS 1.2 and 1.3, HTTP/2
      ok       clock        the clocks here and at ADDRESS agree
      ok       api          https://ADDRESS/v2/ answers 401 as a registry does
      ok       login        `yard` is let in
      ok       certificate  good for another 8386 days, until 2050-01-01
      ok       certificate  it is for `127.0.0.1`
      ok       trust        this system trusts it without being told
      ok       engine       Docker is not installed
      ok       podman       podman, skopeo and buildah are not installed
      ok       containerd   containerd is not installed

    everything is as it should be

    warning  login         the login was not tried: its password is not sent to a server that is not verified
      error    trust         this system trusts `Company root`, but the authority in /ca.pem is another one
                               remove `registry.ca` from mergeyard.toml
      warning  system trust  curl and other programs do not trust its authority, and this system has no known way to add one
                               give them the file, as in: curl --cacert /ca.pem

    1 error, 2 warnings

    warning  login  the login was not tried: its password is not sent to a server that is not verified
      error    trust  the chain of ADDRESS is incomplete or its authority unknown: only `the registry` is sent, and its issuer `Company root` is not trusted here
                        give the server its full chain (`fullchain.pem`, not `cert.pem`); if it has none, put the certificate of `Company root` into a file, set `registry.ca` to it, or pass it as --ca FILE

    1 error, 1 warning
    ");
}

#[tokio::test]
async fn a_clock_that_makes_a_good_certificate_look_bad_is_blamed_itself() {
    let place = Place::new();
    let shown = shown(&place.root, "127.0.0.1", 2020, 2028);
    let server = serve(Some(config(&shown, rustls::ALL_VERSIONS)), Manners::default());
    let subject = place.subject(&server.address.to_string(), &place.root);
    let in_2031 = Timestamp(NOW.0 + 4 * 366 * 24 * 3600 * 1000);
    insta::assert_snapshot!(place.looked_at(&server, &subject, in_2031).await, @r"
    error    clock        the clock here is 1464 days ahead of that of ADDRESS, where it is 2027-01-15 and its certificate is valid
                              set this machine's clock: timedatectl set-ntp true
      warning  login        the login was not tried: its password is not sent to a server that is not verified
      error    certificate  the certificate of ADDRESS expired on 2028-01-01
                              renew it on the machine that serves ADDRESS

    2 errors, 1 warning
    ");
}

/// The files in which this machine's programs look, one after the other wrong and mended.
#[tokio::test]
async fn files_that_are_missing_stale_or_unsafe_are_told_and_mended_beside_what_the_operator_put_there() {
    let place = Place::new();
    let stale = signer("Company root of 2019", None);
    let subject = place.subject("registry.example.invalid", &place.root);
    let address = "203.0.113.9:65000".parse().unwrap();
    for program in ["dockerd", "podman", "containerd", "nerdctl", "update-ca-certificates"] {
        place.write(&format!("usr/bin/{program}"), "");
    }
    fs::create_dir_all(place.path("usr/local/share/ca-certificates")).unwrap();
    place.write("etc/docker/certs.d/registry.example.invalid/ca.crt", &stale.pem());
    place.write(
        "etc/containers/registries.conf",
        "[[registry]]\nlocation = \"registry.example.invalid\"\ninsecure = true\n",
    );
    place.write("etc/containerd/config.toml", "version = 2\n");
    place.write("etc/ssl/certs/ca-certificates.crt", &stale.pem());
    let findings = examine(&subject, &place.machine(), NOW).await;
    let before = place.told(&findings, address);
    let did = mend(&subject, &place.machine(), &findings);
    let did: Vec<_> = did.into_iter().map(Result::unwrap).collect();
    let after = place.told(&examine(&subject, &place.machine(), NOW).await, address);
    insta::assert_snapshot!(format!("{before}\n\n{}\n\n{after}", did.join("\n")), @r#"
    error    name          `registry.example.invalid` has no address: no name server and no line in /etc/hosts knows it
                               add a DNS record, or a line to /etc/hosts on every client: ADDRESS registry.example.invalid
      warning  engine        no engine answers at unix:///nowhere/docker.sock: start it with `systemctl start docker`, or set `engine.host`
                               systemctl start docker
      error    docker        the engine cannot verify it: /etc/docker/certs.d/registry.example.invalid/ca.crt holds another authority, `Company root of 2019`, good until 2050-01-01
                               install -D -m 644 /ca.pem /etc/docker/certs.d/registry.example.invalid/mergeyard-ca.crt
      warning  podman        podman cannot verify it: /etc/docker/certs.d/registry.example.invalid/ca.crt holds another authority, `Company root of 2019`, good until 2050-01-01
                               install -D -m 644 /ca.pem /etc/docker/certs.d/registry.example.invalid/mergeyard-ca.crt
      warning  podman        podman, skopeo and buildah do not verify registry.example.invalid: /etc/containers/registries.conf marks it insecure
                               remove `insecure = true` for it from /etc/containers/registries.conf
      warning  containerd    containerd cannot verify it: there is no /etc/containerd/certs.d/registry.example.invalid/hosts.toml
                               install -D -m 644 /ca.pem /etc/containerd/certs.d/registry.example.invalid/ca.crt, and write /etc/containerd/certs.d/registry.example.invalid/hosts.toml:
                               server = "https://registry.example.invalid"
                               
                               [host."https://registry.example.invalid"]
                                 capabilities = ["pull", "resolve"]
                                 ca = "/etc/containerd/certs.d/registry.example.invalid/ca.crt"
      warning  containerd    containerd does not look into /etc/containerd/certs.d for Kubernetes: /etc/containerd/config.toml has no `config_path`
                               add to /etc/containerd/config.toml, then run systemctl restart containerd:
                               [plugins."io.containerd.grpc.v1.cri".registry]
                                 config_path = "/etc/containerd/certs.d"
      warning  system trust  curl and other programs do not trust its authority
                               install -m 644 /ca.pem /usr/local/share/ca-certificates/mergeyard-registry.example.invalid.crt && update-ca-certificates

    2 errors, 6 warnings; --fix can do something about 4

    wrote /etc/docker/certs.d/registry.example.invalid/mergeyard-ca.crt
    wrote /etc/containerd/certs.d/registry.example.invalid/ca.crt and /etc/containerd/certs.d/registry.example.invalid/hosts.toml
    wrote /usr/local/share/ca-certificates/mergeyard-registry.example.invalid.crt

    error    name          `registry.example.invalid` has no address: no name server and no line in /etc/hosts knows it
                               add a DNS record, or a line to /etc/hosts on every client: ADDRESS registry.example.invalid
      warning  engine        no engine answers at unix:///nowhere/docker.sock: start it with `systemctl start docker`, or set `engine.host`
                               systemctl start docker
      warning  podman        podman, skopeo and buildah do not verify registry.example.invalid: /etc/containers/registries.conf marks it insecure
                               remove `insecure = true` for it from /etc/containers/registries.conf
      warning  containerd    containerd does not look into /etc/containerd/certs.d for Kubernetes: /etc/containerd/config.toml has no `config_path`
                               add to /etc/containerd/config.toml, then run systemctl restart containerd:
                               [plugins."io.containerd.grpc.v1.cri".registry]
                                 config_path = "/etc/containerd/certs.d"
      warning  system trust  /usr/local/share/ca-certificates/mergeyard-registry.example.invalid.crt is there, but update-ca-certificates has not been run since
                               update-ca-certificates

    1 error, 4 warnings
    "#);
    let theirs =
        fs::read_to_string(place.path("etc/docker/certs.d/registry.example.invalid/ca.crt")).unwrap();
    assert_eq!(theirs, stale.pem());
    let again = mend(&subject, &place.machine(), &examine(&subject, &place.machine(), NOW).await);
    assert_eq!(again, [], "what is mended stays mended");
}

fn embedded(data: &Path, tls: Option<(PathBuf, PathBuf)>) -> Own {
    let config = Embedded {
        listen: "127.0.0.1:9".parse().unwrap(),
        host: None,
        tls,
        config: registry::Config::default(),
        collect_every: None,
        verify_every: None,
    };
    Own { data: DataDir::at(data), config: Box::new(config) }
}

#[tokio::test]
async fn a_registry_that_does_not_run_is_looked_at_on_its_disk_and_renews_its_own_certificate() {
    let place = Place::new();
    let data = place.folder.path().join("data");
    let names = ["127.0.0.1", "localhost", "::1"].map(str::to_owned);
    let long_ago = Timestamp(Timestamp::now().0 - 400 * 24 * 3600 * 1000);
    let authority = registry::Authority::open_at(&data.join("tls"), &names, long_ago).unwrap();
    fs::set_permissions(data.join("tls/leaf.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let subject = Subject {
        host: "127.0.0.1:9".parse().unwrap(),
        authority: Some(KnownAuthority {
            path: authority.ca_path(),
            pem: authority.ca_pem().as_bytes().to_vec(),
        }),
        login: None,
        own: Some(embedded(&data, None)),
    };
    let look = async || examine(&subject, &place.machine(), Timestamp::now()).await;
    let findings = look().await;
    let bad = |findings: &[Finding]| -> Vec<_> {
        findings.iter().filter(|finding| finding.level == Level::Error).map(|finding| finding.check).collect()
    };
    assert_eq!(bad(&findings), ["connection", "certificate", "keys"], "{findings:#?}");
    let did: Vec<_> = mend(&subject, &place.machine(), &findings).into_iter().map(Result::unwrap).collect();
    assert_eq!(did.len(), 2, "{did:?}");
    let findings = look().await;
    assert_eq!(bad(&findings), ["connection"], "{findings:#?}");
}
