//! What holds for any accounts, any tokens and any request.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Request};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    config::{Repository, Rules},
    durable,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const SECRET: &str = "Zk3vN8qT1xW6yB0cR5mJ9pL2";
const NAMES: [&str; 4] = ["acme/clock", "acme/deep/clock", "other", "open/clock"];
const PATTERNS: [&str; 6] = ["**", "acme/*", "acme/**", "other", "*", "open/cl?ck"];
const SHA: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn access(config: Config) -> (TempDir, Access) {
    let directory = tempfile::tempdir().unwrap();
    let access = open(&directory, config);
    (directory, access)
}

fn open(directory: &TempDir, config: Config) -> Access {
    let paths = Paths::new(directory.path());
    durable::create_directory(&paths.incoming()).unwrap();
    Access::open(&paths, &Arc::new(config)).unwrap()
}

fn open_to_everybody() -> Config {
    let rules = Rules { anonymous_pull: true, ..Rules::default() };
    Config { repositories: vec![Repository::new("open/*", rules).unwrap()], ..Config::default() }
}

fn account(name: &str, grants: &[(&str, Vec<Right>)], expires: Option<Timestamp>) -> Account {
    let grants = grants.iter().map(|(pattern, rights)| Grant::new(pattern, rights).unwrap()).collect();
    Account {
        name: name.into(),
        secret: SecretHash::of(&Secret::new(SECRET)),
        grants,
        is_operator: false,
        expires,
    }
}

fn request(method: &Method, path: &str, authorization: Option<HeaderValue>) -> Parts {
    let mut request = Request::builder().method(method).uri(path).body(()).unwrap();
    request.headers_mut().extend(authorization.map(|value| (header::AUTHORIZATION, value)));
    request.into_parts().0
}

fn basic(name: &str, secret: &str) -> HeaderValue {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}"))).parse().unwrap()
}

fn ask(
    access: &Access,
    method: &Method,
    path: &str,
    authorization: Option<HeaderValue>,
) -> Result<Identity, Error> {
    let request = request(method, path, authorization);
    access.authorize(&request, &Route::parse(method, request.uri.path()).unwrap(), NOW)
}

fn token(access: &Access, name: &str, scopes: &Scopes) -> Option<HeaderValue> {
    let login = (name != ANONYMOUS).then(|| basic(name, SECRET));
    let identity = access.login(&request(&Method::GET, "/token", login), NOW).ok()?;
    let issued = access.issue(&identity, scopes, NOW).unwrap();
    Some(format!("Bearer {}", issued.token.expose()).parse().unwrap())
}

#[test]
fn a_right_is_on_a_pattern_and_ends_at_its_hour() {
    let (_directory, access) = access(Config::default());
    access.set_accounts(vec![
        account("robot", &[("acme/*", vec![Right::Pull, Right::Push])], Some(Timestamp(NOW.0 + 1))),
        account("reader", &[("**", vec![Right::Pull])], None),
        account("gone", &[("**", vec![Right::Pull])], Some(NOW)),
    ]);
    let by = |name: &str, method: Method, path: &str| {
        ask(&access, &method, path, Some(basic(name, SECRET))).map(|identity| identity.name)
    };
    assert_eq!(by("robot", Method::GET, "/v2/").unwrap(), "robot");
    assert_eq!(by("robot", Method::PUT, "/v2/acme/clock/manifests/1").unwrap(), "robot");
    let deeper = by("robot", Method::GET, "/v2/acme/deep/clock/manifests/1");
    assert!(matches!(deeper, Err(Error::Denied(Denied::Hidden { .. }))));
    let delete = by("robot", Method::DELETE, "/v2/acme/clock/manifests/1");
    assert!(matches!(delete, Err(Error::Denied(Denied::Right { what: "delete from", .. }))));
    assert_eq!(by("reader", Method::HEAD, "/v2/acme/deep/clock/manifests/1").unwrap(), "reader");
    let push = by("reader", Method::POST, "/v2/acme/clock/blobs/uploads/");
    assert!(matches!(push, Err(Error::Denied(Denied::Right { what: "push to", .. }))));
    let gone = by("gone", Method::GET, "/v2/");
    assert!(matches!(gone, Err(Error::Unauthorized { denied: Denied::Expired { .. }, .. })));
}

#[test]
fn the_longest_token_that_is_given_is_taken_too() {
    let (_directory, access) = access(Config::default());
    access.set_accounts(vec![account("robot", &[("**", Right::ALL.to_vec())], None)]);
    let names: Vec<_> = (10..42).map(|n| format!("{}{n}", "a".repeat(253))).collect();
    let asked: Vec<_> = names.iter().map(|name| format!("repository:{name}:*")).collect();
    let asked = Scopes::parse(asked.iter().map(String::as_str)).unwrap();
    let token = token(&access, "robot", &asked).unwrap();
    for name in names {
        assert!(ask(&access, &Method::GET, &format!("/v2/{name}/tags/list"), Some(token.clone())).is_ok());
    }
}

#[test]
fn a_token_is_not_asked_when_the_operators_mind_changes() {
    let (directory, opened) = access(open_to_everybody());
    let token = token(&opened, ANONYMOUS, &Scopes::parse(["repository:open/clock:pull"]).unwrap()).unwrap();
    let path = "/v2/open/clock/manifests/1";
    assert_eq!(ask(&opened, &Method::GET, path, Some(token.clone())).unwrap().name, ANONYMOUS);
    let closed = open(&directory, Config::default());
    let denied = ask(&closed, &Method::GET, path, Some(token)).unwrap_err();
    let Error::Unauthorized { denied: Denied::Unknown, challenge } = denied else { panic!("{denied:?}") };
    assert_eq!(challenge, BASIC_CHALLENGE);
}

fn rights() -> impl Strategy<Value = Vec<Right>> {
    prop::sample::subsequence(Right::ALL.to_vec(), 1..=3)
}

fn grants() -> impl Strategy<Value = Vec<(&'static str, Vec<Right>)>> {
    prop::collection::vec((prop::sample::select(PATTERNS.to_vec()), rights()), 0..4)
}

fn scopes() -> impl Strategy<Value = String> {
    let actions = prop::collection::vec(prop::sample::select(vec!["pull", "push", "delete", "*", "x"]), 0..3);
    let repository = (prop::sample::select(NAMES.to_vec()), actions)
        .prop_map(|(name, actions)| format!("repository:{name}:{}", actions.join(",")));
    let scope = prop_oneof![4 => repository, 1 => Just("registry:catalog:*".to_owned())];
    prop::collection::vec(scope, 0..5).prop_map(|scopes| scopes.join(" "))
}

fn requests() -> impl Strategy<Value = (Method, String)> {
    let name = || prop::sample::select(NAMES.to_vec());
    let on = |method: Method, path: &'static str| {
        name().prop_map(move |name| (method.clone(), format!("/v2/{name}/{path}")))
    };
    prop_oneof![
        Just((Method::GET, "/v2/".to_owned())),
        Just((Method::GET, "/v2/_catalog".to_owned())),
        on(Method::GET, "manifests/1"),
        on(Method::HEAD, "blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000"),
        on(Method::GET, "tags/list"),
        on(Method::PUT, "manifests/1"),
        on(Method::DELETE, "manifests/1"),
        on(Method::POST, "blobs/uploads/"),
        on(Method::PATCH, "blobs/uploads/00000000-0000-0000-0000-000000000000"),
        (name(), name()).prop_map(|(to, from)| {
            (Method::POST, format!("/v2/{to}/blobs/uploads/?mount={SHA}&from={from}"))
        }),
    ]
}

#[test]
fn a_token_never_may_more_than_its_account_and_one_for_what_was_wanted_may_as_much() {
    let (_opened, opened) = access(open_to_everybody());
    let (_closed, closed) = access(Config::default());
    proptest!(|(
        grants in grants(), scopes in scopes(), (method, path) in requests(), anonymous: bool, open: bool
    )| {
        let access = if open { &opened } else { &closed };
        access.set_accounts(vec![account("robot", &grants, None)]);
        let who = if anonymous { ANONYMOUS } else { "robot" };
        let by_name = ask(access, &method, &path, (!anonymous).then(|| basic(who, SECRET)));
        let Some(limited) = token(access, who, &Scopes::parse([scopes.as_str()]).unwrap()) else {
            return Ok(());
        };
        let by_token = ask(access, &method, &path, Some(limited));
        // Without a name, what says who one is and what there is asks for a token first.
        let asks_first = anonymous && matches!(path.as_str(), "/v2/" | "/v2/_catalog");
        prop_assert!(by_token.is_err() || by_name.is_ok() || asks_first, "{by_token:?} {by_name:?}");
        if let (Ok(by_token), Ok(by_name)) = (&by_token, &by_name) {
            for name in NAMES.map(|name| name.parse().unwrap()) {
                for right in Right::ALL {
                    prop_assert!(!by_token.may(right, &name) || by_name.may(right, &name));
                }
            }
        }
        let route = Route::parse(&method, path.split('?').next().unwrap()).unwrap();
        let wanted = token(access, who, &Scopes::wanted(&method, &route, &path.parse().unwrap())).unwrap();
        let by_wanted = ask(access, &method, &path, Some(wanted));
        prop_assert!(by_wanted.is_ok() || by_name.is_err(), "{by_wanted:?}");
    });
}

#[test]
fn no_header_lets_anyone_in_who_does_not_have_the_secret() {
    let (_directory, access) = access(Config::default());
    access.set_accounts(vec![account("robot", &[("**", Right::ALL.to_vec())], None)]);
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    proptest!(|(scheme in "(Basic |Bearer |basic|)", bytes in bytes, encode: bool)| {
        let rest = if encode { STANDARD.encode(&bytes).into_bytes() } else { bytes };
        if let Ok(value) = HeaderValue::from_bytes(&[scheme.as_bytes(), &rest].concat()) {
            let answer = ask(&access, &Method::GET, "/v2/other/manifests/1", Some(value));
            prop_assert!(answer.is_err());
        }
    });
}

#[test]
fn no_file_of_robots_makes_it_panic_or_opens_a_door() {
    let (directory, access) = access(Config::default());
    let robots = Robots::open(directory.path());
    let grants = vec![Grant::new("acme/*", &[Right::Pull]).unwrap()];
    let new = NewRobot { name: "ci".parse().unwrap(), grants, expires: None, description: None };
    let secret = robots.create(new, NOW).unwrap();
    let path = Paths::new(directory.path()).robots();
    let good = std::fs::read(&path).unwrap();
    let (bytes, at) = (prop::collection::vec(any::<u8>(), 0..200), any::<prop::sample::Index>());
    proptest!(|(bytes in bytes, at in at, cut: bool)| {
        let mut json = good.clone();
        let at = at.index(json.len());
        if cut { json.truncate(at) } else { json.splice(at..at, bytes).for_each(drop) }
        std::fs::write(&path, json).unwrap();
        // Whatever it has become, nobody may push, and nobody gets in by another secret.
        let push = ask(&access, &Method::PUT, "/v2/acme/clock/manifests/1", Some(basic("ci", secret.expose())));
        prop_assert!(push.is_err());
        prop_assert!(ask(&access, &Method::GET, "/v2/", Some(basic("ci", SECRET))).is_err());
        let _ = robots.list();
    });
}
