//! A shell that knows `echo`, `printf %s`, `sleep` and `exit`: enough to play the cases.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use mergeyard_plan::action::Action;
use mergeyard_run::{
    executor::{Play, StepContext, StepJob, StepOutcome},
    log::Stream,
};

pub(crate) struct Shell;

impl Play for Shell {
    fn play(&self, job: StepJob, cx: StepContext) -> BoxFuture<'static, StepOutcome> {
        async move {
            let Action::Container(action) = &job.action else { panic!("only containers are played") };
            if job.detached {
                cx.ready.notify_one();
            }
            let mut outputs = BTreeMap::new();
            for command in &action.commands {
                cx.log.raw(Stream::Stdout, format!("+ {command}\n").as_bytes()).await;
                for command in command.split("; ") {
                    if let Some(code) =
                        perform(command, &job, &cx, &mut outputs).await.filter(|code| *code != 0)
                    {
                        return StepOutcome::Exited {
                            code: code.into(),
                            message: format!("exit code {code}"),
                        };
                    }
                }
            }
            match action.outputs.iter().find(|key| !outputs.contains_key(*key)) {
                Some(key) => StepOutcome::Failure {
                    message: format!("the output `{key}` is promised and was not written"),
                },
                None => StepOutcome::Success { outputs },
            }
        }
        .boxed()
    }
}

/// The code when it is `exit`.
async fn perform(
    command: &str,
    job: &StepJob,
    cx: &StepContext,
    outputs: &mut BTreeMap<String, String>,
) -> Option<i32> {
    let (program, rest) = command.split_once(' ').unwrap();
    let words = job
        .environment
        .iter()
        .fold(rest.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value));
    match program {
        "echo" => match words.strip_suffix(" >> $CI_OUTPUT") {
            Some(line) => {
                let (key, value) = line.split_once('=').unwrap();
                outputs.insert(key.to_owned(), value.to_owned());
            }
            None => {
                // A step's commands write both to one stream.
                let text = words.strip_suffix(" >&2").unwrap_or(&words);
                cx.log.raw(Stream::Stdout, format!("{text}\n").as_bytes()).await;
            }
        },
        "printf" => cx.log.raw(Stream::Stdout, words.strip_prefix("%s ").unwrap().as_bytes()).await,
        "sleep" => tokio::time::sleep(Duration::from_secs(words.parse().unwrap())).await,
        "exit" => return Some(words.parse().unwrap()),
        other => panic!("the played shell has no `{other}`"),
    }
    None
}
