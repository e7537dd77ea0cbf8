//! The Ansible roles of `examples/yum-lab`, as far as they go without machines to change.

use std::fmt::Write as _;

use mergeyard_testkit::process::{self, Said, tool};

use super::hosts::example;

/// What is said to hosts of one group, each with variables of its own.
async fn play(group: &str, hosts: &[(&str, &str)]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let mut inventory = format!("[{group}]\n");
    for (name, variables) in hosts {
        writeln!(inventory, "{name} {variables}").unwrap();
    }
    std::fs::write(folder.path().join("hosts"), inventory).unwrap();
    let mut docker = tool("docker");
    docker.args(["run", "--rm", "--network=none", "-e", "ANSIBLE_NOCOLOR=1"]);
    docker.arg("-v").arg(format!("{}:/work:ro", example().join("ansible").canonicalize().unwrap().display()));
    docker.arg("-v").arg(format!("{}:/hosts:ro", folder.path().display()));
    docker.args([
        "mergeyard-ansible",
        "-i",
        "/hosts",
        "-c",
        "local",
        "-e",
        "ansible_become=false",
        "site.yml",
    ]);
    process::run(&mut docker).await
}

/// The line in which a host refuses.
fn refusal<'a>(said: &'a Said, host: &str) -> &'a str {
    let begin = format!("fatal: [{host}]: ");
    said.stdout.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{host}: {said}"))
}

#[tokio::test]
async fn the_roles_refuse_what_cannot_work_before_they_change_anything() {
    let ranges = [
        ("outside", "dhcp_range_last=10.78.0.9"),
        ("broadcast", "dhcp_range_last=10.77.0.255"),
        ("turned", "dhcp_range_first=10.77.0.151"),
        ("itself", "dhcp_address=10.77.0.120"),
        ("elsewhere", "dhcp_address=10.78.0.1"),
        ("the-mirror", "lan_mirror_address=10.77.0.100"),
        ("none", "dhcp_range_last=many"),
        ("good", ""),
    ];
    let said = play("dhcp_servers", &ranges).await;
    for (host, _) in &ranges[..6] {
        assert!(refusal(&said, host).contains("is no range that can be leased"), "{host}: {said}");
    }
    assert!(refusal(&said, "none").contains("not an IPv4 address"), "{said}");
    assert!(refusal(&said, "good").contains("give eth0 the address 10.77.0.1"), "{said}");
    let said = play("mirrors", &[("keyless", "")]).await;
    assert!(refusal(&said, "keyless").contains("The mirror needs mirror_authorized_keys"), "{said}");
    assert!(!said.stdout.contains("changed: ["), "{said}");
}
