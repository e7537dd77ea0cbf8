//! Secrets of pipelines: set by the real command line, resolved by the server.

use std::os::unix::fs::PermissionsExt;

use mergeyard_plan::event::EventKind;
use mergeyard_server::secrets::{Resolved, Scope};
use mergeyard_testkit::yard::TestYard;
use mergeyard_types::RepoName;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};

use crate::tokens::holds;

const VALUE: &str = "correct horse battery staple";

async fn resolve(yard: &TestYard, repo: &str, name: &str) -> Result<Option<Resolved>, String> {
    let (repo, name): (RepoName, _) = (repo.parse().unwrap(), name.parse().unwrap());
    let resolved = yard.yard().secrets().resolve(&repo, &name).await;
    resolved.map_err(|error| {
        let said = format!("{error} {error:?}");
        assert!(!said.contains(VALUE), "an error shows the value: {said}");
        error.to_string()
    })
}

async fn value(yard: &TestYard, repo: &str, name: &str) -> Option<String> {
    resolve(yard, repo, name).await.unwrap().map(|secret| secret.value.expose().to_owned())
}

async fn set(yard: &TestYard, arguments: &[&str], input: &str) -> String {
    yard.command_line(&[&["secret", "set"], arguments].concat(), input).await.good()
}

async fn sql(yard: &TestYard, statement: &'static str) {
    let file = yard.folder().join("data").join("mergeyard.sqlite");
    let mut database = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::raw_sql(statement).execute(&mut database).await.unwrap();
}

#[tokio::test]
async fn a_secret_goes_in_by_standard_input_and_only_its_name_comes_out() {
    let yard = TestYard::new().await;
    let arguments = ["API_Key", "--repo", "Acme/Clock", "--event", "push", "--image", "plugins/docker:1"];
    let said = set(&yard, &arguments, &format!("{VALUE}\n")).await;
    assert_eq!(said.trim(), "secret `api_key` of acme/clock is set");
    let resolved = resolve(&yard, "acme/clock", "api_KEY").await.unwrap().unwrap();
    assert_eq!(resolved.value.expose(), VALUE);
    assert_eq!(
        (&resolved.rule.events[..], &resolved.rule.images[..]),
        (&[EventKind::Push][..], &["plugins/docker:1".to_owned()][..])
    );
    assert!(!format!("{resolved:?}").contains(VALUE));
    let text = yard.command_line(&["secret", "list"], "").await.good();
    assert!(
        text.contains("acme/clock") && text.contains("api_key") && text.contains("push; plugins/docker:1"),
        "{text}"
    );
    let listed: Value =
        serde_json::from_str(&yard.command_line(&["secret", "list", "--format", "json"], "").await.good())
            .unwrap();
    assert_eq!(listed[0]["name"], "api_key");
    assert_eq!((&listed[0]["repository"], &listed[0]["source"]), (&json!("acme/clock"), &json!("database")));
    assert!(!text.contains(VALUE) && !listed.to_string().contains(VALUE));
    let key = yard.folder().join("data").join("master.key");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!holds(&yard.folder(), VALUE.as_bytes()), "the value lies on the disk as it is");
    yard.close().await;
}

#[tokio::test]
async fn the_nearest_level_wins_and_the_configuration_within_it() {
    let yard = TestYard::with(mergeyard_testkit::yard::two_services("0.1.0"), |config| {
        let secrets = "[[secret]]\nname = 'B'\nvalue = 'configured for all'\nglobal = true\n\
                       [[secret]]\nname = 'c'\nvalue = 'configured for acme'\norg = 'Acme'\nevents = ['pull_request']\n";
        config.extend(secrets.parse::<toml::Table>().unwrap());
    })
    .await;
    for (arguments, value) in [
        (&["a"][..], "a of all"),
        (&["a", "--org", "acme"], "a of acme"),
        (&["a", "--repo", "acme/clock"], "a of clock"),
        (&["b"], "b of all"),
        (&["c", "--repo", "acme/clock"], "c of clock"),
    ] {
        set(&yard, arguments, value).await;
    }
    for (repo, name, wanted) in [
        ("acme/clock", "a", Some("a of clock")),
        ("ACME/Clock", "A", Some("a of clock")),
        ("acme/other", "a", Some("a of acme")),
        ("other/clock", "a", Some("a of all")),
        ("acme/clock", "b", Some("configured for all")),
        ("acme/clock", "c", Some("c of clock")),
        ("acme/other", "c", Some("configured for acme")),
        ("other/clock", "c", None),
        ("acme/clock", "d", None),
    ] {
        assert_eq!(value(&yard, repo, name).await.as_deref(), wanted, "{name} of {repo}");
    }
    // A rule of the nearest level hides what a farther one would allow.
    let resolved = resolve(&yard, "acme/other", "c").await.unwrap().unwrap();
    assert_eq!(
        (resolved.scope, &resolved.rule.events[..]),
        (Scope::organisation("acme").unwrap(), &[EventKind::PullRequest][..])
    );
    let removed = yard.command_line(&["secret", "rm", "A", "--repo", "acme/clock"], "").await.good();
    assert!(removed.contains("is forgotten"), "{removed}");
    assert_eq!(value(&yard, "acme/clock", "a").await.as_deref(), Some("a of acme"));
    let kept = yard.command_line(&["secret", "rm", "c", "--org", "acme"], "").await.failed(1);
    assert!(kept.contains("stands in the configuration"), "{kept}");
    yard.close().await;
}

#[tokio::test]
async fn rows_that_were_swapped_or_opened_wider_do_not_open() {
    let yard = TestYard::new().await;
    set(&yard, &["one", "--repo", "acme/clock"], VALUE).await;
    set(&yard, &["two", "--repo", "acme/clock"], "another value").await;
    set(&yard, &["three", "--repo", "acme/clock", "--event", "push"], VALUE).await;
    sql(
        &yard,
        "CREATE TEMP TABLE t AS SELECT name, sealed FROM secrets; \
         UPDATE secrets SET sealed = (SELECT sealed FROM t WHERE t.name = 'one') WHERE name = 'two'; \
         UPDATE secrets SET events = '[]' WHERE name = 'three'",
    )
    .await;
    for name in ["two", "three"] {
        let said = resolve(&yard, "acme/clock", name).await.unwrap_err();
        assert!(said.contains(&format!("secret `{name}` of acme/clock does not open")), "{said}");
    }
    assert_eq!(value(&yard, "acme/clock", "one").await.as_deref(), Some(VALUE));
    sql(&yard, "UPDATE secrets SET scope = 'acme/other' WHERE name = 'one'").await;
    assert!(resolve(&yard, "acme/other", "one").await.unwrap_err().contains("does not open"));
    yard.close().await;
}

#[tokio::test]
async fn another_master_key_refuses_and_says_which_one_is_wanted() {
    let mut yard = TestYard::new().await;
    set(&yard, &["one", "--repo", "acme/clock"], VALUE).await;
    let key = yard.folder().join("data").join("master.key");
    let right = std::fs::read_to_string(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let said = resolve(&yard, "acme/clock", "one").await.unwrap_err();
    assert!(said.contains("there is no master key in") && said.contains("put key"), "{said}");
    yard.reconfigure(|config| {
        let secrets: toml::Table = format!("[secrets]\nkey = '{}'\n", "ab".repeat(32)).parse().unwrap();
        config.extend(secrets);
    })
    .await;
    let said = resolve(&yard, "acme/clock", "one").await.unwrap_err();
    assert!(said.contains("was sealed with master key") && said.contains("put that key back"), "{said}");
    assert!(!said.contains(right.trim()) && !said.contains("abab"), "{said}");
    std::fs::write(yard.folder().join("the.key"), &right).unwrap();
    let file = yard.folder().join("the.key").display().to_string();
    yard.reconfigure(|config| {
        let secrets: toml::Table = format!("[secrets]\nkey = {{ file = '{file}' }}\n").parse().unwrap();
        config.extend(secrets);
    })
    .await;
    assert_eq!(value(&yard, "acme/clock", "one").await.as_deref(), Some(VALUE));
    yard.close().await;
}

#[tokio::test]
async fn values_that_no_step_could_be_given_are_refused_and_short_ones_warned_about() {
    let yard = TestYard::new().await;
    for (input, says) in [
        (String::new(), "the value is empty"),
        ("\n".to_owned(), "the value is empty"),
        ("a\0b".to_owned(), "a zero byte"),
        ("x".repeat(70_000), "more than the 65536"),
    ] {
        let said = yard.command_line(&["secret", "set", "bad"], &input).await.failed(2);
        assert!(said.contains(says) && !said.contains(&"x".repeat(20)), "{said}");
    }
    let said = yard.command_line(&["secret", "set", "short"], "abc\r\n").await;
    assert!(said.stderr.contains("cannot be masked"), "{said}");
    assert_eq!(value(&yard, "acme/clock", "short").await.as_deref(), Some("abc"));
    let file = yard.folder().join("id_ed25519");
    std::fs::write(&file, "line one\nline two\n").unwrap();
    set(&yard, &["key", "--file", &file.display().to_string()], "").await;
    assert_eq!(value(&yard, "acme/clock", "key").await.as_deref(), Some("line one\nline two\n"));
    for arguments in [
        &["a b"][..],
        &["a", "--event", "pushed"],
        &["a", "--repo", "acme"],
        &["a", "--org", "acme/clock"],
        &["a", "--org", "acme", "--repo", "acme/clock"],
    ] {
        let said = yard.command_line(&[&["secret", "set"], arguments].concat(), VALUE).await;
        assert_eq!(said.status.code(), Some(2), "{said}");
    }
    yard.close().await;
}

#[test]
fn the_configuration_says_whose_each_secret_is() {
    use mergeyard_server::config::Config;
    let read = |secrets: &str| {
        let text = format!("[github]\nwebhook_secret = 'sixteen-characters-or-more'\n{secrets}");
        Config::from_table(text.parse().unwrap()).map(|config| config.rules.pipeline_secrets)
    };
    for (secrets, says) in [
        ("[[secret]]\nname = 'a'\nvalue = 'hunter22'", "one of `repo`, `org` or `global = true`"),
        ("[[secret]]\nname = 'a'\nvalue = 'hunter22'\norg = 'x'\nglobal = true", "one of `repo`"),
        ("[[secret]]\nname = 'a b'\nvalue = 'hunter22'\nglobal = true", "`secret[0].name`"),
        ("[[secret]]\nname = 'a'\nvalue = 'hunter22'\norg = 'x/y'", "`secret[0].org`"),
        ("[[secret]]\nname = 'a'\nvalue = ''\nglobal = true", "the value is empty"),
        (
            "[[secret]]\nname = 'a'\nvalue = 'hunter22'\nglobal = true\nevents = ['pushed']",
            "unknown variant `pushed`",
        ),
        ("[[secret]]\nname = 'a'\nvalue = 'hunter22'\nglobal = true\nevent = ['push']", "unknown"),
        (
            "[[secret]]\nname = 'a'\nvalue = 'hunter22'\nglobal = true\n[[secret]]\nname = 'A'\nvalue = 'b'\nglobal = true",
            "is there twice",
        ),
        ("[secrets]\nkey = 'hunter22'", "64 hexadecimal digits"),
    ] {
        let said = read(secrets).expect_err(secrets).to_string();
        assert!(said.contains(says) && !said.contains("hunter22"), "{secrets}\n{said}");
    }
    let read =
        read("[[secret]]\nname = 'a'\nvalue = 'hunter22'\nrepo = 'Acme/Clock'\nimages = ['x']").unwrap();
    assert_eq!(read[0].scope, Scope::repository(&"acme/clock".parse().unwrap()));
    assert!(!format!("{read:?}").contains("hunter22"));
}
