//! What no single value can get wrong: names, dependencies, and keys that exclude each other.

use std::collections::HashMap;

use super::{
    At, Limits, Need, Step, Workflow,
    findings::{Findings, Quoted},
    grammar::nearest,
    node::Place,
};

/// Beside the workflow the places of its steps and services.
pub(super) fn workflow(
    workflow: &Workflow,
    places: (Place, Place),
    limits: &Limits,
    findings: &mut Findings,
) {
    let Workflow { clone, steps: list, services, .. } = workflow;
    for (what, count, most, place) in [
        ("steps", list.len(), limits.steps, places.0),
        ("services", services.len(), limits.services, places.1),
    ] {
        if count > most {
            let message =
                format!("the file has {count} {what}, more than {most}: split it into several workflows");
            findings.error(place, "pipeline-size", message);
            return;
        }
    }
    for (what, steps) in [("clone step", clone), ("step", list), ("service", services)] {
        names(what, steps, findings);
        for step in steps {
            keys(what, step, findings);
        }
    }
    needs_of_workflow(&workflow.depends_on, findings);
    dependencies(list, services, findings);
}

fn place(step: &Step, at: At, findings: &Findings) -> Place {
    let file = step
        .origin
        .as_deref()
        .and_then(|origin| findings.files.iter().skip(1).position(|file| *file == origin));
    Place { file: file.map_or(0, |file| file + 1), at }
}

fn names(what: &str, steps: &[Step], findings: &mut Findings) {
    // A name becomes part of container names, pages and log lines.
    const LONGEST: usize = 100;
    let mut seen: HashMap<&str, At> = HashMap::new();
    for step in steps {
        let name = step.name.as_str();
        let here = place(step, step.name.at, findings);
        if name.is_empty() || name.chars().count() > LONGEST || name.chars().any(char::is_control) {
            let message = format!("the name of a {what} has 1 to {LONGEST} characters on one line");
            findings.error(here, "pipeline-name", message);
        }
        if let Some(first) = seen.insert(name, step.name.at) {
            let message = format!(
                "there are two {what}s {}, the first in line {}: give one another name",
                Quoted(name),
                first.line
            );
            findings.error(here, "pipeline-duplicate-name", message);
        }
    }
}

fn keys(what: &str, step: &Step, findings: &mut Findings) {
    let here = place(step, step.name.at, findings);
    let name = format!("the {what} {}", Quoted(&step.name));
    let built_in_clone = what == "clone step" && *step.name == "git";
    let image = step.image.as_ref().is_some_and(|image| !image.trim().is_empty());
    if let Some(uses) = step.uses.as_ref().filter(|_| what != "step") {
        let message = format!("{name} has `uses`: only a step is a built-in action, give it an `image`");
        findings.error(place(step, uses.at, findings), "pipeline-uses", message);
        return;
    }
    if what == "step" && step.ready.is_some() && !step.detach {
        let message = format!(
            "{name} has `ready`, which is passed over: others wait for its end, remove it or `detach` the step"
        );
        findings.warning(here, "pipeline-ready", message);
    }
    let mut say = |code, message| findings.error(here, code, message);
    if step.uses.is_some() {
        let own = [
            ("image", step.image.is_some()),
            ("commands", !step.commands.is_empty()),
            ("entrypoint", !step.entrypoint.is_empty()),
            ("settings", !step.settings.is_empty()),
        ];
        for (key, _) in own.iter().filter(|(_, there)| *there) {
            say(
                "pipeline-uses",
                format!("{name} has `uses` and `{key}`: an action brings its own, remove one of the two"),
            );
        }
        if step.detach {
            say(
                "pipeline-uses",
                format!(
                    "{name} has `uses` and `detach`: an action has an end that others wait for, remove `detach`"
                ),
            );
        }
    } else if !image && !built_in_clone {
        say("pipeline-no-image", format!("{name} has no `image`: name one, or an action with `uses`"));
    }
    if step.uses.is_none() && !step.with.is_empty() {
        say(
            "pipeline-uses",
            format!("{name} has `with` and no `uses`: what a plugin gets stands under `settings`"),
        );
    }
    if step.settings.is_empty() {
        return;
    }
    for (key, there) in [("commands", !step.commands.is_empty()), ("entrypoint", !step.entrypoint.is_empty())]
    {
        if there {
            say(
                "pipeline-settings",
                format!(
                    "{name} has `settings` and `{key}`: settings are for plugins, which run by themselves; use `environment`"
                ),
            );
        }
    }
    if !step.environment.is_empty() {
        let message =
            format!("{name} has `settings` and `environment`, which makes it no plugin any more: keep one");
        findings.warning(here, "pipeline-settings", message);
    }
}

fn needs_of_workflow(needs: &[Need], findings: &mut Findings) {
    for need in needs.iter().filter(|need| need.name.is_empty()) {
        let place = Place { file: 0, at: need.name.at };
        findings.error(place, "pipeline-dependency", "a dependency needs the `name` of a workflow");
    }
}

fn dependencies(steps: &[Step], services: &[Step], findings: &mut Findings) {
    let index: HashMap<&str, usize> =
        steps.iter().enumerate().map(|(i, step)| (step.name.as_str(), i)).collect();
    let mut edges = vec![Vec::new(); steps.len()];
    for (i, step) in steps.iter().enumerate() {
        for need in step.depends_on.iter().flatten() {
            match index.get(need.name.as_str()) {
                Some(target) => edges[i].push(*target),
                None if need.optional && !need.name.is_empty() => {}
                None => {
                    let message = missing(step, need, &index, services);
                    findings.error(place(step, need.name.at, findings), "pipeline-dependency", message);
                }
            }
        }
    }
    for cycle in cycles(&edges) {
        let mut names: Vec<_> = cycle.iter().map(|i| Quoted(&steps[*i].name).to_string()).collect();
        names.push(names[0].clone());
        // A long one is told by its beginning and its end.
        if names.len() > 12 {
            names.splice(8..names.len() - 2, ["…".to_owned()]);
        }
        let step = &steps[cycle[0]];
        let message =
            format!("steps wait for each other: {}: remove one of these dependencies", names.join(" → "));
        findings.error(place(step, step.name.at, findings), "pipeline-cycle", message);
    }
}

fn missing(step: &Step, need: &Need, index: &HashMap<&str, usize>, services: &[Step]) -> String {
    let name = Quoted(&step.name);
    if need.name.is_empty() {
        return format!("a dependency of {name} needs the `name` of a step");
    }
    let wanted = Quoted(&need.name);
    if services.iter().any(|service| service.name.value == need.name.value) {
        return format!("{name} depends on the service {wanted}: steps start after all services, remove it");
    }
    match nearest(&need.name, index.keys().copied()) {
        Some(near) => format!("{name} depends on {wanted}, which is no step: did you mean `{near}`?"),
        None => format!("{name} depends on {wanted}, which is no step: add it, or write `optional: true`"),
    }
}

/// Each cycle that a walk in file order runs into, as positions. The walk keeps its own stack,
/// since a chain is as long as the file has steps.
fn cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    let mut cycles = Vec::new();
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        let mut path = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let Some(target) = edges[*node].get(*next).copied() else {
                marks[*node] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[target] {
                Mark::New => {
                    marks[target] = Mark::Open;
                    path.push((target, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|(node, _)| *node == target).unwrap_or_default();
                    cycles.push(path[from..].iter().map(|(node, _)| *node).collect());
                }
                Mark::Done => {}
            }
        }
    }
    cycles
}
