//! Builds that stand on images of another registry, which only our own registry's mirror reaches.

#[path = "support/builds.rs"]
mod builds;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::{sync::Arc, time::Duration};

use bollard::query_parameters::TagImageOptionsBuilder;
use builds::{MINUTE, Yard, build, docker, engine, fresh, sink};
use mergeyard_registry::{Account, Authority, Config, Grant, Mirror, Right, SecretHash, serve};
use mergeyard_run::{
    engine::{Builder, RegistryCredentials},
    executor::{Docker, Executor, StepOutcome},
    git::{GitCache, GitLimits},
    registry_client::{RegistryAccess, RegistryClient},
};
use mergeyard_types::{ImageRef, Secret};
use registry::{PASSWORD, USER};

/// A name that no machine has: what is pulled from there comes from the mirror.
const UPSTREAM: &str = "upstream.invalid";
const SECRET: &str = "4tX9bQ2mV7cL1sR8";

/// The yard's executor, with our own registry and its mirror of the yard's one in the place of it.
async fn mirrored(yard: Yard) -> (Yard, RegistryAccess) {
    let folder = yard.dir.path();
    let authority = Authority::open(&folder.join("authority"), &["127.0.0.1".to_owned()]).unwrap();
    let mirror = Mirror {
        prefix: UPSTREAM.parse().unwrap(),
        upstream: format!("https://{}", yard.registry.host()).parse().unwrap(),
        login: Some((USER.to_owned(), Secret::new(PASSWORD))),
        ca_pem: Some(yard.registry.ca.clone()),
        revalidate: Duration::ZERO,
    };
    let config = Config { mirrors: vec![mirror], ..Config::default() };
    let ours = mergeyard_registry::Registry::open(&folder.join("registry"), config).unwrap();
    ours.set_accounts(vec![Account {
        name: "mergeyard".to_owned(),
        secret: SecretHash::of(&Secret::new(SECRET)),
        grants: vec![Grant::new("**", &[Right::Pull, Right::Push]).unwrap()],
        is_operator: false,
        expires: None,
    }]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let access = RegistryAccess {
        host: listener.local_addr().unwrap().to_string().parse().unwrap(),
        ca_pem: Some(authority.ca_pem().as_bytes().to_vec()),
        username: "mergeyard".to_owned(),
        password: Secret::new(SECRET),
    };
    tokio::spawn(serve(listener, ours, authority.server_config().unwrap(), std::future::pending()));
    let cache = GitCache::new(folder.join("another-cache"), GitLimits::default()).unwrap();
    let client = Arc::new(RegistryClient::new(access.clone()).unwrap());
    let mut executor = Docker::new(cache, engine().await, client);
    executor.mirrors = vec![UPSTREAM.parse().unwrap()];
    (Yard { executor: Arc::new(Executor::Docker(executor)), ..yard }, access)
}

/// Publishes an image in the yard's registry and nowhere else.
async fn publish(yard: &Yard, name: &str) {
    let (built, said) =
        build(name, Builder::Classic, &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /base\n")]).await;
    let built = built.unwrap_or_else(|fault| panic!("{fault}: {said}"));
    let there: ImageRef = format!("{}/base/{name}:1", yard.registry.host()).parse().unwrap();
    let options = TagImageOptionsBuilder::new().repo(&there.repository()).tag("1").build();
    docker().tag_image(&built.id, Some(options)).await.unwrap();
    let credentials = RegistryCredentials { username: USER.to_owned(), password: Secret::new(PASSWORD) };
    let (log, _lines) = sink();
    engine().await.push(&there, &credentials, &log).await.unwrap();
    for tag in [there.to_string(), format!("127.0.0.1:1/{name}-{}:classic", std::process::id())] {
        engine().await.remove_image(&tag).await.unwrap();
    }
}

/// Removes what a test left in the engine.
async fn forget(images: &[String]) {
    for image in images {
        engine().await.remove_image(image).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_only_the_mirror_reaches_is_built_on() {
    let name = format!("mirrored-{}", fresh());
    let yard = Yard::start().await;
    publish(&yard, &name).await;
    let (yard, ours) = mirrored(yard).await;
    let base = format!("{UPSTREAM}/base/{name}:1");
    let sha = yard.commit(&format!("FROM {base}\nCOPY spec.json /spec.json\n"));
    let (outcome, said) = yard.run(yard.job(sha, &name, MINUTE)).await;
    let copy = format!("{}/{base}", ours.host);
    forget(&[base.clone(), copy.clone(), format!("{}/{name}:0.1.0", ours.host)]).await;
    assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{said}");
    assert!(said.contains(&format!("{copy}: ")) && !said.contains("does not come from the mirror"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mirror_does_not_have_is_asked_of_its_registry_and_the_log_says_so() {
    let (yard, _ours) = mirrored(Yard::start().await).await;
    let base = format!("{UPSTREAM}/base/nobody-pushed-{}:1", fresh());
    let sha = yard.commit(&format!("FROM {base}\n"));
    let (outcome, said) = yard.run(yard.job(sha, "unmirrored", MINUTE)).await;
    assert!(!matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}");
    assert!(said.contains(&format!("{base} does not come from the mirror: ")), "{said}");
    let (StepOutcome::Failure { message } | StepOutcome::Error { message, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    // The engine's own attempt, at the name in the Dockerfile, is what the step ends with.
    assert!(message.contains(&base) && !message.contains("127.0.0.1"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_named_by_digest_is_asked_of_its_registry_and_the_log_says_why() {
    let (yard, _ours) = mirrored(Yard::start().await).await;
    let base = format!("{UPSTREAM}/base/pinned@sha256:{}", "ab".repeat(32));
    let sha = yard.commit(&format!("FROM {base}\n"));
    let (outcome, said) = yard.run(yard.job(sha, "pinned", MINUTE)).await;
    assert!(!matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}");
    assert!(said.contains("the engine cannot rename what is named by digest"), "{said}");
}
