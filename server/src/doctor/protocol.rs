//! Whether what answers is a registry, what time it is there, and whether it lets us in.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use mergeyard_registry::{
    tls::certificate::{Certificate, is_for},
    tls::trust::Roots,
};
use mergeyard_run::engine::RegistryCredentials;
use mergeyard_types::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::{
    Finding, Machine, PATIENCE, Subject, day,
    wire::{self, Answer, Belief},
};

const API: &str = "api";
const AUTH: &str = "login";
const CLOCK: &str = "clock";

/// Tokens and certificates are used within minutes of being made.
const CLOCK_SKEW_SECONDS: i64 = 60;

pub(super) async fn examine(
    subject: &Subject,
    machine: &Machine,
    address: SocketAddr,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let ask = Ask { subject, address };
    let answer = match ask.get("/v2/", &Belief::JustLooking, None).await {
        Ok(answer) => answer,
        Err(error) => {
            findings.push(
                Finding::error(API, format!("no answer to https://{}/v2/: {error}", subject.host))
                    .fix("see the log of the registry"),
            );
            return;
        }
    };
    findings.extend(clock(subject, &answer.headers, chain, now));
    let is_registry = api(subject, &answer);
    let goes_on = is_registry.level != super::Level::Error;
    findings.push(is_registry);
    if goes_on {
        let belief = believed(subject, machine, chain, now);
        findings.extend(authentication(&ask, &answer, belief).await);
    }
}

/// Whom to believe when a password is at stake: nobody where any client would refuse.
fn believed(
    subject: &Subject,
    machine: &Machine,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Option<Roots> {
    let roots = subject.roots().unwrap_or_else(|| machine.system.clone());
    let leaf = chain.first()?;
    let read = Certificate::read(leaf).ok()?;
    let is_valid = !read.is_expired(now) && !read.is_from_the_future(now);
    (is_valid && is_for(leaf, subject.name()) && roots.verify(chain, now).is_ok()).then_some(roots)
}

struct Ask<'a> {
    subject: &'a Subject,
    address: SocketAddr,
}

impl Ask<'_> {
    async fn get(&self, path: &str, belief: &Belief, authorization: Option<&str>) -> io::Result<Answer> {
        let (name, host) = (self.subject.name(), self.subject.host.as_str());
        wire::get(self.address, name, host, path, belief, authorization).await
    }
}

fn clock(
    subject: &Subject,
    headers: &HeaderMap,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Option<Finding> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    let ahead = now.0 / 1000 - there;
    if ahead.abs() <= CLOCK_SKEW_SECONDS {
        return Some(Finding::ok(CLOCK, format!("the clocks here and at {} agree", subject.host)));
    }
    let leaf = chain.first().and_then(|der| Certificate::read(der).ok());
    let valid = |at: i64| {
        let at = Timestamp(at.saturating_mul(1000));
        leaf.as_ref().is_some_and(|leaf| !leaf.is_expired(at) && !leaf.is_from_the_future(at))
    };
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let message =
        format!("the clock here is {} {direction} that of {}", span(ahead.unsigned_abs()), subject.host);
    Some(match (valid(there), valid(now.0 / 1000)) {
        (true, false) => Finding::error(
            CLOCK,
            format!("{message}, where it is {} and its certificate is valid", day(Timestamp(there * 1000))),
        )
        .fix("set this machine's clock: timedatectl set-ntp true"),
        _ => Finding::warning(CLOCK, message)
            .fix("set the clock of whichever machine is wrong: timedatectl set-ntp true"),
    })
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => super::days(seconds / 86_400),
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    code: String,
}

fn api(subject: &Subject, answer: &Answer) -> Finding {
    let url = format!("https://{}/v2/", subject.host);
    let status = answer.status;
    if !matches!(status, StatusCode::OK | StatusCode::UNAUTHORIZED) {
        return Finding::error(API, format!("{url} answers {status}, which no registry does"))
            .fix("correct the port, or the proxy in front of the registry: /v2/ must reach it unchanged");
    }
    let version = answer.headers.get("docker-distribution-api-version");
    let is_named = version.is_some_and(|version| version.as_bytes().starts_with(b"registry/2"));
    let errors = serde_json::from_slice::<Errors>(&answer.body);
    let is_told = status == StatusCode::OK
        || errors.is_ok_and(|told| told.errors.iter().any(|error| !error.code.is_empty()));
    let missing = match (is_named, is_told) {
        (true, true) => {
            return Finding::ok(API, format!("{url} answers {} as a registry does", status.as_u16()));
        }
        (false, _) => "without the header `Docker-Distribution-Api-Version: registry/2.0`",
        (true, false) => "without the JSON body that tells clients why",
    };
    Finding::warning(API, format!("{url} answers {} {missing}", status.as_u16()))
        .fix("let the proxy in front of the registry pass its headers and errors through")
}

async fn authentication(ask: &Ask<'_>, answer: &Answer, belief: Option<Roots>) -> Vec<Finding> {
    let challenges: Vec<&str> = answer
        .headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if answer.status == StatusCode::OK {
        return vec![Finding::ok(AUTH, "anybody may ask; no login is needed for /v2/")];
    }
    let bearer = challenges.iter().find_map(|text| Challenge::bearer(text));
    let is_basic = challenges.iter().any(|text| scheme(text).eq_ignore_ascii_case("basic"));
    let mut findings = Vec::new();
    let realm = match &bearer {
        Some(challenge) => {
            let (finding, realm) = realm(ask, challenge).await;
            findings.push(finding);
            realm
        }
        None if is_basic => None,
        None => {
            let message =
                "the 401 says neither `Basic` nor `Bearer` in WWW-Authenticate, so no client can log in";
            findings.push(
                Finding::error(AUTH, message)
                    .fix("let the proxy in front of the registry pass WWW-Authenticate through"),
            );
            return findings;
        }
    };
    let Some(login) = &ask.subject.login else {
        findings.push(Finding::ok(AUTH, "no login is known here, so none was tried"));
        return findings;
    };
    let Some(roots) = belief else {
        findings.push(Finding::warning(
            AUTH,
            "the login was not tried: its password is not sent to a server that is not verified",
        ));
        return findings;
    };
    let tried = match (&bearer, realm) {
        (Some(challenge), Some(realm)) => by_token(ask, challenge, &realm, login, roots).await,
        (Some(_), None) => return findings,
        (None, _) => {
            ask.get("/v2/", &Belief::In(roots), Some(&basic(login))).await.map(|answer| answer.status)
        }
    };
    findings.push(let_in(ask.subject, login, tried));
    findings
}

fn let_in(subject: &Subject, login: &RegistryCredentials, tried: io::Result<StatusCode>) -> Finding {
    let user = &login.username;
    let fix = match &subject.own {
        Some(own) => format!(
            "the password of `{user}` is in {}; restart the server when that file was changed",
            own.data.registry_password_file().display()
        ),
        None => "check `registry.username` and `registry.password`".to_owned(),
    };
    match tried {
        Ok(StatusCode::OK) => Finding::ok(AUTH, format!("`{user}` is let in")),
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Finding::error(AUTH, format!("`{user}` is not let in with the password that is known here"))
                .fix(fix)
        }
        Ok(StatusCode::TOO_MANY_REQUESTS) => {
            Finding::warning(AUTH, "too many logins failed of late; the registry asks to wait")
                .fix("try again in a minute")
        }
        Ok(status) => Finding::error(AUTH, format!("logging in as `{user}` is answered {status}"))
            .fix("see the log of the registry"),
        Err(error) => Finding::error(AUTH, format!("logging in as `{user}` does not work: {error}"))
            .fix("see the log of the registry"),
    }
}

fn basic(login: &RegistryCredentials) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", login.username, login.password.expose())))
}

struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    fn bearer(text: &str) -> Option<Self> {
        let (scheme, parameters) = text.split_once(' ')?;
        let value = |name: &str| {
            parameters.split(',').find_map(|part| {
                let (key, value) = part.trim().split_once('=')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let realm = scheme.eq_ignore_ascii_case("bearer").then(|| value("realm"))??;
        Some(Self { realm, service: value("service") })
    }
}

fn scheme(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// Where tokens are asked for: over TLS, and at a host that exists.
struct Realm {
    url: Url,
    name: String,
    host: String,
    address: SocketAddr,
}

async fn realm(ask: &Ask<'_>, challenge: &Challenge) -> (Finding, Option<Realm>) {
    const FIX: &str = "let the registry announce its own public address as the realm: set `registry.host`, and in a proxy pass Host on";
    let shown = &challenge.realm;
    let Ok(url) = Url::parse(shown) else {
        return (
            Finding::error(AUTH, format!("tokens are to be asked for at `{shown}`, which is no address"))
                .fix(FIX),
            None,
        );
    };
    if url.scheme() != "https" {
        let message =
            format!("tokens are to be asked for at {shown}, where the password would go without TLS");
        return (Finding::error(AUTH, message).fix(FIX), None);
    }
    let Some(host) = url.host_str().map(str::to_owned) else {
        return (
            Finding::error(AUTH, format!("tokens are to be asked for at {shown}, which names no host"))
                .fix(FIX),
            None,
        );
    };
    let (name, port) = (host.trim_matches(['[', ']']).to_owned(), url.port().unwrap_or(443));
    let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    let addresses = resolve(&name, port).await;
    let Some(&first) = addresses.iter().next() else {
        return (
            Finding::error(
                AUTH,
                format!("tokens are to be asked for at {shown}, and `{name}` has no address"),
            )
            .fix(FIX),
            None,
        );
    };
    let is_same =
        name == ask.subject.name() || addresses.iter().any(|address| address.ip() == ask.address.ip());
    let finding = match is_same {
        true => Finding::ok(AUTH, format!("tokens come from {shown}")),
        false => Finding::warning(
            AUTH,
            format!("tokens come from {shown}, which is another machine ({})", first.ip()),
        )
        .fix(FIX),
    };
    let address = addresses.iter().copied().find(|address| address.ip() == ask.address.ip()).unwrap_or(first);
    (finding, Some(Realm { url, name, host: authority, address }))
}

async fn resolve(name: &str, port: u16) -> BTreeSet<SocketAddr> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return BTreeSet::from([(address, port).into()]);
    }
    match timeout(PATIENCE, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => BTreeSet::new(),
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

async fn by_token(
    ask: &Ask<'_>,
    challenge: &Challenge,
    realm: &Realm,
    login: &RegistryCredentials,
    roots: Roots,
) -> io::Result<StatusCode> {
    let mut url = realm.url.clone();
    url.query_pairs_mut().append_pair("account", &login.username);
    if let Some(service) = &challenge.service {
        url.query_pairs_mut().append_pair("service", service);
    }
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let belief = Belief::In(roots);
    let answer =
        wire::get(realm.address, &realm.name, &realm.host, &path, &belief, Some(&basic(login))).await?;
    if answer.status != StatusCode::OK {
        return Ok(answer.status);
    }
    let token: Token = serde_json::from_slice(&answer.body)
        .map_err(|_| io::Error::other("what the token endpoint sends is not the JSON of a token"))?;
    let token = token.token.or(token.access_token);
    let token =
        token.ok_or_else(|| io::Error::other("there is no token in what the token endpoint sends"))?;
    let answer = ask.get("/v2/", &belief, Some(&format!("Bearer {token}"))).await?;
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            Err(io::Error::other("the registry refuses the token that it has just given"))
        }
        status => Ok(status),
    }
}
