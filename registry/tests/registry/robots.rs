//! Robots that come and go while the registry serves.

use std::{fs, os::unix::fs::PermissionsExt, thread, time::Duration};

use mergeyard_registry::{Grant, NewRobot, Right, RobotError, RobotName, Robots};
use mergeyard_types::Timestamp;

use crate::{
    images,
    yard::{Answer, SECRET, Yard, basic},
};

const PATH: &str = "/v2/acme/clock/manifests/1";

#[tokio::test]
async fn a_robot_may_what_it_was_granted_from_the_next_request_on_until_it_is_revoked() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    images::push(&yard, "secret/clock", "1").await;
    let robots = Robots::open(&yard.path(""));
    ask(&yard, "ci", "anything").await.refused(401, "UNAUTHORIZED");
    let secret = robots.create(wanted("ci", &[Right::Pull]), Timestamp::now()).unwrap();
    assert_eq!(secret.expose().len(), 64);
    assert!(secret.expose().bytes().all(|b| b.is_ascii_alphanumeric()));
    assert_eq!(ask(&yard, "ci", secret.expose()).await.status, 200);
    let authorization = basic("ci", secret.expose());
    let as_robot = |method: &str, path: &str| {
        yard.ask(method, path).by_nobody().header("authorization", &authorization).send()
    };
    as_robot("GET", "/v2/secret/clock/manifests/1").await.refused(404, "NAME_UNKNOWN");
    as_robot("POST", "/v2/acme/clock/blobs/uploads/").await.refused(403, "DENIED");
    let told = as_robot("GET", "/token?scope=repository:acme/clock:pull").await.json();
    let bearer = format!("Bearer {}", told["token"].as_str().unwrap());
    let by_token = || yard.ask("GET", PATH).by_nobody().header("authorization", &bearer).send();
    assert_eq!(by_token().await.status, 200);

    robots.revoke(&name("ci")).unwrap();
    by_token().await.refused(401, "UNAUTHORIZED");
    ask(&yard, "ci", secret.expose()).await.refused(401, "UNAUTHORIZED");
    // Another robot of that name is not the one the token was given to.
    robots.create(wanted("ci", &[Right::Pull]), Timestamp::now()).unwrap();
    by_token().await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn another_secret_makes_the_old_one_and_its_tokens_void() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let robots = Robots::open(&yard.path(""));
    let old = robots.create(wanted("ci", &[Right::Pull]), Timestamp::now()).unwrap();
    let login = yard.ask("GET", "/token?scope=repository:acme/clock:pull").by_nobody();
    let told = login.header("authorization", &basic("ci", old.expose())).send().await.json();
    let bearer = format!("Bearer {}", told["token"].as_str().unwrap());
    let new = robots.rotate(&name("ci")).unwrap();
    assert_ne!(old, new);
    ask(&yard, "ci", old.expose()).await.refused(401, "UNAUTHORIZED");
    assert_eq!(ask(&yard, "ci", new.expose()).await.status, 200);
    let shown = yard.ask("GET", PATH).by_nobody().header("authorization", &bearer).send().await;
    shown.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn an_expired_robot_is_told_so_and_nobody_else_is() {
    let yard = Yard::new();
    let robots = Robots::open(&yard.path(""));
    let expired = NewRobot { expires: Some(Timestamp(1)), ..wanted("ci", &[Right::Pull]) };
    let secret = robots.create(expired, Timestamp(0)).unwrap();
    let told = ask(&yard, "ci", secret.expose()).await.refused(401, "UNAUTHORIZED");
    assert_eq!(told, "the account `ci` has expired: ask for a new secret");
    let guess = ask(&yard, "ci", SECRET).await.refused(401, "UNAUTHORIZED");
    assert!(guess.starts_with("authentication required"));
}

#[tokio::test]
async fn a_broken_file_changes_nothing_until_it_is_repaired() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let robots = Robots::open(&yard.path(""));
    let secret = robots.create(wanted("ci", &[Right::Pull]), Timestamp::now()).unwrap();
    let file = yard.path("access/robots.json");
    let good = fs::read_to_string(&file).unwrap();
    assert_eq!(ask(&yard, "ci", secret.expose()).await.status, 200);
    let other = good.replace("\"ci\"", "\"intruder\"");
    for broken in [
        String::new(),
        "{}".into(),
        good[..good.len() / 2].into(),
        other.replace("\"pull\"", "\"everything\""),
        other.replace("\"created\"", "\"made\""),
        other.replace("\"intruder\"", "\"mergeyard\""),
        other.replace("acme/**", "acme/["),
        other.replace("secret_sha256\": \"", "secret_sha256\": \"0"),
        format!("{other}x"),
    ] {
        fs::write(&file, &broken).unwrap();
        assert_eq!(ask(&yard, "ci", secret.expose()).await.status, 200, "{broken}");
        for intruder in ["intruder", "mergeyard"] {
            ask(&yard, intruder, secret.expose()).await.refused(401, "UNAUTHORIZED");
        }
        // No command makes it worse.
        let refused = robots.create(wanted("more", &[Right::Pull]), Timestamp(0)).unwrap_err();
        assert!(matches!(refused, RobotError::Broken { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
    fs::write(&file, &other).unwrap();
    ask(&yard, "ci", secret.expose()).await.refused(401, "UNAUTHORIZED");
    assert_eq!(ask(&yard, "intruder", secret.expose()).await.status, 200);
    // What cannot be read is looked at again, and tells nothing meanwhile.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&yard, "intruder", secret.expose()).await.status, 200);
    }
    fs::remove_dir(&file).unwrap();
    fs::write(&file, &good).unwrap();
    ask(&yard, "intruder", secret.expose()).await.refused(401, "UNAUTHORIZED");
    assert_eq!(ask(&yard, "ci", secret.expose()).await.status, 200);
    // Without the file there are no robots.
    fs::remove_file(&file).unwrap();
    ask(&yard, "ci", secret.expose()).await.refused(401, "UNAUTHORIZED");
    ask(&yard, "intruder", secret.expose()).await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_servers_own_accounts_come_before_a_robot_of_their_name() {
    let yard = Yard::new();
    let robots = Robots::open(&yard.path(""));
    let secret = robots.create(wanted("reader", &[Right::Delete]), Timestamp::now()).unwrap();
    ask(&yard, "reader", secret.expose()).await.refused(401, "UNAUTHORIZED");
    assert_eq!(yard.ask("GET", "/v2/").by("reader").send().await.status, 200);
}

#[test]
fn commands_at_once_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let make = |who: usize| {
        let robots = Robots::open(directory.path());
        for n in 0..10 {
            robots.create(wanted(&format!("robot-{who}-{n}"), &[Right::Push]), Timestamp(1)).unwrap();
        }
        robots.revoke(&name(&format!("robot-{who}-0"))).unwrap();
    };
    thread::scope(|scope| {
        for who in 0..8 {
            scope.spawn(move || make(who));
        }
    });
    let robots = Robots::open(directory.path());
    assert_eq!(robots.list().unwrap().len(), 72);
    let access = directory.path().join("access");
    assert_eq!(fs::read_dir(access.join("incoming")).unwrap().count(), 0);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(access.join("robots.json")), mode(access)), (0o600, 0o700));
}

#[test]
fn what_is_asked_for_wrongly_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let robots = Robots::open(directory.path());
    assert!(robots.list().unwrap().is_empty());
    let expires = Some(Timestamp(5).plus(Duration::from_secs(60)));
    let description = Some("pushes from the build machines".to_owned());
    let new = NewRobot { expires, description: description.clone(), ..wanted("ci", &[Right::Push]) };
    let secret = robots.create(new, Timestamp(5)).unwrap();
    let refused = |new: NewRobot| robots.create(new, Timestamp(6)).unwrap_err().to_string();
    assert!(
        refused(wanted("ci", &[Right::Pull])).starts_with("there is a robot `ci` already: rotate its secret")
    );
    assert!(
        refused(NewRobot { grants: Vec::new(), ..wanted("x", &[Right::Pull]) })
            .contains("at least one right")
    );
    let long = NewRobot { description: Some("a\nb".into()), ..wanted("x", &[Right::Pull]) };
    assert!(refused(long).contains("one line"));
    for unknown in [robots.revoke(&name("none")), robots.rotate(&name("none")).map(drop)] {
        assert!(matches!(unknown, Err(RobotError::Unknown(_))));
    }
    let [robot] = &robots.list().unwrap()[..] else { panic!() };
    assert_eq!((robot.name.as_str(), robot.created, robot.expires), ("ci", Timestamp(5), expires));
    assert_eq!((robot.grants[0].repositories(), robot.grants[0].rights()), ("acme/**", &[Right::Push][..]));
    assert_eq!(robot.description, description);
    let kept = fs::read_to_string(directory.path().join("access/robots.json")).unwrap();
    assert!(!kept.contains(secret.expose()));
    for bad in ["", "CI", "a b", "-a", "a--b", "a/b", "é", "a:b", "mergeyard", "anonymous", &"a".repeat(65)]
    {
        assert!(bad.parse::<RobotName>().is_err(), "{bad}");
    }
    for bad in ["", "/acme", "Acme/*", "acme/[", "a b", "a\n", &"a".repeat(256)] {
        assert!(Grant::new(bad, &[Right::Pull]).is_err(), "{bad}");
    }
    assert!(Grant::new("acme/*", &[]).is_err());
}

pub(crate) fn wanted(robot: &str, rights: &[Right]) -> NewRobot {
    let grants = vec![Grant::new("acme/**", rights).unwrap()];
    NewRobot { name: name(robot), grants, expires: None, description: None }
}

fn name(text: &str) -> RobotName {
    text.parse().unwrap()
}

async fn ask(yard: &Yard, account: &str, secret: &str) -> Answer {
    let path = if account == "reader" { "/v2/" } else { PATH };
    yard.ask("GET", path).by_nobody().header("authorization", &basic(account, secret)).send().await
}
