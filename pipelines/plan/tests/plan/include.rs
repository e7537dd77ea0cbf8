//! One file on top of others: what comes from where, and who wins.

use mergeyard_plan::spec::{Included, Limits, Read, includes, read, read_with};

fn over(text: &str, included: &[(&str, &str)]) -> Read {
    let included: Vec<_> = included.iter().map(|(file, text)| Included { file, text }).collect();
    read_with("build.yml", text, &included, &Limits::default())
}

fn said(read: &Read) -> Vec<String> {
    read.findings.iter().map(ToString::to_string).collect()
}

const BASE: (&str, &str) = (
    "ci/base.yml",
    "variables: {image: &golang golang:1.26}\nlabels: {platform: linux/amd64, size: small}\n\
     inputs: {tag: {description: base}}\nsteps:\n  lint: {image: *golang, commands: base lint}\n  test: {image: *golang, \
     commands: base test}\nservices: {db: {image: postgres}}\n",
);

#[test]
fn a_file_says_which_others_it_stands_on() {
    let list = includes("include: [ci/base.yml, ci/deploy.yml]\nsteps: {}\n");
    assert_eq!(list.iter().map(|file| file.as_str()).collect::<Vec<_>>(), ["ci/base.yml", "ci/deploy.yml"]);
    assert_eq!((list[1].at.line, list[1].at.column), (1, 24));
    assert_eq!(includes("include: base.yml")[0].as_str(), "base.yml");
    assert_eq!(
        includes("include: base.yml\nwhen: {branch: [${CI_REPO_DEFAULT_BRANCH}]}\n")[0].as_str(),
        "base.yml"
    );
    for none in ["", "steps: {}", "include:", "matrix: {include: [{a: b}]}", "include: [", "- include: a"] {
        assert!(includes(none).is_empty(), "{none}");
    }
}

#[test]
fn included_steps_come_first_and_one_of_the_same_name_takes_their_place() {
    let text = "include: ci/base.yml\nlabels: {size: large}\nsteps:\n  test: {image: rust, commands: own test}\n  \
                ship: {image: *golang, depends_on: lint}\nservices: {mq: {image: mq}}\n";
    let read = over(text, &[BASE]);
    assert_eq!(said(&read), [""; 0]);
    let workflow = read.workflow.unwrap();
    let steps: Vec<_> = workflow
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.image.as_ref().unwrap().as_str(), step.origin.as_deref()))
        .collect();
    assert_eq!(
        steps,
        [("lint", "golang:1.26", Some("ci/base.yml")), ("test", "rust", None), ("ship", "golang:1.26", None),],
        "and its anchors can be used"
    );
    assert_eq!(workflow.services.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["db", "mq"]);
    assert_eq!(
        (workflow.labels["platform"].as_str(), workflow.labels["size"].as_str()),
        ("linux/amd64", "large")
    );
    assert_eq!(workflow.inputs["tag"].description.as_deref(), Some("base"));
}

#[test]
fn all_steps_may_come_from_the_other_file() {
    let read = over("include: ci/base.yml\n", &[BASE]);
    assert_eq!(read.workflow.unwrap().steps.len(), 2);
}

#[test]
fn later_files_stand_on_earlier_ones() {
    let text = "include: [ci/base.yml, more.yml]\nsteps: {last: {image: x}}\n";
    let read =
        over(text, &[BASE, ("more.yml", "steps:\n  lint: {image: other}\n  more: {image: *golang}\n")]);
    let steps: Vec<_> = read.workflow.as_ref().unwrap().steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["lint", "test", "more", "last"]);
    assert_eq!(read.workflow.unwrap().steps[0].image.as_ref().unwrap().as_str(), "other");
}

#[test]
fn findings_name_the_file_they_are_in() {
    let part = ("part.yml", "steps:\n  a: {image: x, comands: y}\n  b: {image: x, depends_on: zzz}\n");
    let read = over("include: part.yml\nsteps: {c: {timeout: 1}}\n", &[part]);
    assert_eq!(
        said(&read),
        [
            "build.yml:2:9: the step `c` has no `image`: name one, or an action with `uses`",
            "build.yml:2:22: `1` is not a duration: write a number and s, m or h, such as 30m",
            "part.yml:2:17: the step `a` has no key `comands` and passes it over: did you mean `commands`?",
            "part.yml:3:29: `b` depends on `zzz`, which is no step: add it, or write `optional: true`",
        ]
    );
}

#[test]
fn what_cannot_be_included_is_said() {
    let own = "steps: {a: {image: x}}\n";
    for (include, part, says) in [
        (
            "gone.yml",
            None,
            "build.yml:1:10: `gone.yml` is not there: included files are read at the repository's default branch",
        ),
        ("../x.yml", None, "build.yml:1:10: `../x.yml` is not the path of a file"),
        ("/etc/passwd", None, "build.yml:1:10: `/etc/passwd` is not the path of a file"),
        ("p.yml", Some("include: q.yml\n"), "p.yml:1:1: an included file cannot include others"),
        ("p.yml", Some("when: {event: push}\n"), "p.yml:1:1: `when` means nothing in an included file"),
        ("p.yml", Some("steps: [{image: x}]\n"), "p.yml:1:9: name the steps of an included file"),
        ("p.yml", Some("steps: [\n"), "p.yml:1:8: this is not YAML"),
        ("p.yml", Some("- a\n"), "p.yml:1:1: a pipeline is a list"),
    ] {
        let included: Vec<_> = part.iter().map(|text| ("p.yml", *text)).collect();
        let said = said(&over(&format!("include: {include}\n{own}"), &included));
        assert!(said.len() == 1 && said[0].starts_with(says), "{include}: {said:#?}");
    }
    assert!(
        said(&read("build.yml", &format!("include: a.yml\n{own}"), &Limits::default()))[0]
            .contains("`a.yml` is not there")
    );
}

#[test]
fn two_steps_of_one_name_in_one_file_stay_an_error() {
    let read = over("include: ci/base.yml\nsteps: [{name: a, image: x}, {name: a, image: x}]\n", &[BASE]);
    assert!(said(&read)[0].contains("there are two steps `a`"), "{:?}", said(&read));
}

#[test]
fn aliases_across_files_are_counted_too() {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for i in 1..14 {
        text += &format!("a{i}: &a{i} [*a{before}, *a{before}]\n", before = i - 1);
    }
    let own = format!("include: p.yml\nsteps: {{a: {{image: x}}}}\nx-a: [{}]\n", "*a10, ".repeat(60));
    let read = over(&own, &[("p.yml", &text)]);
    assert!(
        said(&read).iter().any(|finding| finding.contains("with its aliases the file holds more than")),
        "{:?}",
        said(&read)
    );
}
