//! The keys of the language, in one table.
//!
//! The same table finds unknown keys and values of the wrong kind, and becomes the JSON Schema
//! for editors, so that the reader and the schema cannot come to disagree.

use super::{
    Limits,
    grammar::{Key, Shape, Standing, Table},
};

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, about, standing: Standing::Current }
}

const fn old(name: &'static str, instead: &'static str) -> Key {
    Key { name, shape: Shape::Any, about: instead, standing: Standing::Old(instead) }
}

const fn gone(name: &'static str, instead: &'static str) -> Key {
    Key { name, shape: Shape::Any, about: instead, standing: Standing::Gone(instead) }
}

const fn elsewhere(name: &'static str, about: &'static str) -> Key {
    Key { name, shape: Shape::Text, about, standing: Standing::Elsewhere }
}

const TEXTS: Shape = Shape::OneOrMore(&Shape::Text);
const GLOBS: Shape = Shape::OneOrMore(&Shape::Glob);
const CONSTRAINT: Shape = Shape::Either(&[GLOBS, Shape::Keys(&GLOB_LISTS)]);
const TEXT_MAP: Shape = Shape::Map(&Shape::Text);
const SETTINGS: Shape = Shape::Map(&Shape::Json);
const NEEDS: Shape = Shape::OneOrMore(&Shape::Either(&[Shape::Text, Shape::Keys(&NEED)]));
const STEP_NEEDS: Shape = Shape::OneOrMore(&Shape::Either(&[Shape::Text, Shape::Keys(&STEP_NEED)]));
const STATUSES: Shape = Shape::OneOrMore(&Shape::Word(&["success", "failure"]));
const CONCURRENT: Shape = Shape::Number { least: i32::MIN as i64, most: 1000 };
const WHEN_LIST: Shape = Shape::OneOrMore(&Shape::Keys(&WHEN));

pub(super) static WORKFLOW: Table = Table {
    name: "workflow",
    about: "A pipeline file: one workflow of steps in containers",
    open: false,
    keys: &[
        key("when", WHEN_LIST, "When the workflow runs; of a list, one has to match"),
        key("steps", Shape::Steps(&STEP), "What the workflow does, in this order"),
        key(
            "services",
            Shape::Steps(&SERVICE),
            "Containers that run beside all steps, reached by their name",
        ),
        key("clone", Shape::Steps(&CLONE), "How the commit gets into the workspace"),
        key("skip_clone", Shape::Flag, "Start with an empty workspace"),
        key("workspace", Shape::Keys(&WORKSPACE), "Where the workspace is mounted"),
        key("labels", TEXT_MAP, "What the runner has to offer"),
        key("depends_on", NEEDS, "Workflows that have to end first"),
        key(
            "concurrency",
            Shape::Either(&[CONCURRENT, Shape::Keys(&CONCURRENCY)]),
            "How many of these run at the same time",
        ),
        key("matrix", Shape::Map(&Shape::Any), "Run once for each combination of these values"),
        key("variables", Shape::Any, "A place for anchors; not read by itself"),
        key("include", TEXTS, "Files of this repository, at its default branch, to put underneath this one"),
        key("inputs", Shape::Map(&Shape::Keys(&INPUT)), "What a person is asked for when starting a run"),
        key("approve", Shape::Gate, "The gate that a person has to open before the workflow starts"),
        Key {
            name: "runs_on",
            shape: STATUSES,
            about: "Write `when: {status: [success, failure]}` instead",
            standing: Standing::Old("write `status` under `when` instead"),
        },
        key("version", Shape::Any, "Not read; older files have it"),
        key("$schema", Shape::Text, "Not read; editors use it"),
        old("platform", "it is passed over: write `labels: {platform: …}` instead"),
        gone("branches", "write `branch` under `when` instead"),
        gone("pipeline", "write `steps` instead"),
    ],
};

pub(super) static STEP: Table = Table {
    name: "step",
    about: "One container, or one built-in action",
    open: false,
    keys: &[
        key("name", Shape::Text, "The step's name; the key of a mapping is its name already"),
        key("image", Shape::Text, "The image of the container"),
        key("pull", Shape::Flag, "Ask the registry for the image even when it is here"),
        key("commands", TEXTS, "Run by one shell, until the first that fails"),
        key("entrypoint", TEXTS, "Run in place of the image's entrypoint"),
        key("directory", Shape::Text, "Where the commands start, seen from the workspace"),
        key("settings", SETTINGS, "What a plugin gets, as `PLUGIN_…` variables"),
        key("environment", Shape::Either(&[SETTINGS, TEXTS]), "Environment variables"),
        key(
            "depends_on",
            STEP_NEEDS,
            "Steps that have to end first; with it, steps no longer run in file order",
        ),
        key("when", WHEN_LIST, "When the step runs; of a list, one has to match"),
        key("failure", Shape::Word(&["fail", "ignore", "cancel"]), "What its failure means to the workflow"),
        key("detach", Shape::Flag, "Go on while this runs, until the workflow ends"),
        key("volumes", TEXTS, "Directories of the host; needs trust"),
        key("ports", TEXTS, "Ports it listens on"),
        key("dns", TEXTS, "Name servers; needs trust"),
        key("dns_search", TEXTS, "Search domains; needs trust"),
        key("devices", TEXTS, "Devices of the host; needs trust"),
        key("extra_hosts", TEXTS, "More names in /etc/hosts; needs trust"),
        key("network_mode", Shape::Text, "Another network; needs trust unless `none`"),
        key("tmpfs", TEXTS, "Directories in memory; needs trust"),
        key("privileged", Shape::Flag, "With the rights of the host; needs trust"),
        key("backend_options", Shape::Keys(&BACKEND), "What only one kind of engine knows"),
        key("uses", Shape::Text, "A built-in action, in place of an image"),
        key("with", SETTINGS, "What the action gets"),
        key("timeout", Shape::Duration, "After this it has failed, such as 90s, 30m or 2h"),
        key(
            "retry",
            Shape::Number { least: 0, most: Limits::DEFAULT.retries as i64 },
            "How often to try again after a failure",
        ),
        key("outputs", Shape::OneOrMore(&Shape::Variable), "Names it writes as `name=value` to $CI_OUTPUT"),
        key("ready", Shape::Keys(&READY), "When what runs beside the steps counts as started"),
        key("cache", TEXTS, "Directories to keep from run to run of this branch"),
        key("approve", Shape::Gate, "The gate that a person has to open before the step starts"),
        old("group", "it is passed over: write `depends_on` instead"),
        old("secrets", "it is passed over: write `environment: {NAME: {from_secret: name}}` instead"),
    ],
};

// A service and a clone step are written like a step. They are tables of their own for what
// they are about in an editor.
pub(super) static SERVICE: Table = Table {
    name: "service",
    about: "A container that runs beside the steps and is reached by its name",
    open: false,
    keys: STEP.keys,
};

pub(super) static CLONE: Table = Table {
    name: "clone",
    about: "A step before all others; one named `git` without an image configures the built-in clone",
    open: false,
    keys: STEP.keys,
};

pub(super) static WHEN: Table = Table {
    name: "when",
    about: "All of these have to match",
    open: false,
    keys: &[
        key("repo", CONSTRAINT, "Repositories, as owner/name"),
        key("branch", CONSTRAINT, "Branches; of a pull request, the one it goes to"),
        key("event", Shape::OneOrMore(&Shape::Event), "What happened"),
        key("ref", CONSTRAINT, "Git references, such as refs/tags/v*"),
        key("cron", CONSTRAINT, "Names of schedules"),
        key("status", STATUSES, "How what came before has ended"),
        key("platform", CONSTRAINT, "Platforms of the runner, such as linux/amd64"),
        key(
            "matrix",
            Shape::Map(&Shape::Either(&[Shape::Text, TEXT_MAP])),
            "Points of the matrix, by axis; of steps only",
        ),
        key("instance", CONSTRAINT, "Names of servers"),
        key("path", Shape::Either(&[GLOBS, Shape::Keys(&PATHS)]), "Files that were changed"),
        key("evaluate", Shape::Text, "An expression that yields true or false"),
        key("local", Shape::Flag, "Whether `mergeyard run` takes it too"),
        old(
            "environment",
            "it is passed over: write `evaluate: 'CI_PIPELINE_DEPLOY_TARGET == \"…\"'` instead",
        ),
    ],
};

static GLOB_LISTS: Table = Table {
    name: "constraint",
    about: "What is excluded is out, included or not",
    open: false,
    keys: &[key("include", GLOBS, "Globs"), key("exclude", GLOBS, "Globs")],
};

static PATHS: Table = Table {
    name: "paths",
    about: "Changed files",
    open: false,
    keys: &[
        key("include", GLOBS, "One changed file has to match"),
        key("exclude", GLOBS, "Not when all changed files match"),
        key("ignore_message", Shape::Text, "A commit message with this passes"),
        key("on_empty", Shape::Flag, "Whether no changed file passes; true unless written"),
    ],
};

static NEED: Table = Table {
    name: "need",
    about: "Something that has to end first",
    open: false,
    keys: &[
        key("name", Shape::Text, "Its name"),
        key("optional", Shape::Flag, "Fine when nothing of that name is there"),
    ],
};

static STEP_NEED: Table = Table {
    name: "step_need",
    about: "A step that has to end first",
    open: false,
    keys: &[
        key("name", Shape::Text, "Its name"),
        key("optional", Shape::Flag, "Fine when nothing of that name is there"),
        elsewhere("workflow", "Not read: a step waits for steps of its own workflow"),
        elsewhere("step", "Not read: a step waits for steps of its own workflow"),
    ],
};

static WORKSPACE: Table = Table {
    name: "workspace",
    about: "Where the workspace is mounted",
    open: false,
    keys: &[
        key("base", Shape::Text, "The volume that steps share, an absolute path"),
        key("path", Shape::Text, "The checkout, seen from `base`"),
    ],
};

static CONCURRENCY: Table = Table {
    name: "concurrency",
    about: "How many run at the same time",
    open: false,
    keys: &[
        key("limit", CONCURRENT, "How many; 0, or less, is no limit"),
        key("group", Shape::Text, "Shared by all workflows that name it; without it, the workflow's name"),
    ],
};

static INPUT: Table = Table {
    name: "input",
    about: "One value a person is asked for",
    open: false,
    keys: &[
        key("type", Shape::Word(&["text", "number", "boolean", "choice"]), "What it is; text unless written"),
        key("description", Shape::Text, "Shown where it is asked for"),
        key("default", Shape::Text, "Taken when nothing is given"),
        key("required", Shape::Flag, "Whether a run starts without it"),
        key("options", TEXTS, "What can be chosen"),
    ],
};

static READY: Table = Table {
    name: "ready",
    about: "When what runs beside the steps counts as started",
    open: false,
    keys: &[
        key("command", TEXTS, "Exits with 0 when it is ready; one text is run by a shell"),
        key("port", Shape::Number { least: 1, most: 65535 }, "Accepts connections when it is ready"),
        key("timeout", Shape::Duration, "After this it has failed; 60s unless written"),
    ],
};

static BACKEND: Table = Table {
    name: "backend_options",
    about: "What only one kind of engine knows",
    open: true,
    keys: &[
        key("docker", Shape::Keys(&DOCKER), "Docker"),
        key("kubernetes", Shape::Map(&Shape::Any), "Kubernetes"),
    ],
};

static DOCKER: Table = Table {
    name: "docker",
    about: "Docker",
    open: false,
    keys: &[key("user", Shape::Text, "The user, as name or number, with an optional group")],
};
