//! Reading the engine's complaints: its errors are sentences, and the sentences decide
//! whether a person has to repair a Dockerfile or time has to repair a machine.

use bollard::errors::Error;

use crate::StepFault;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("no engine answers at {host}: start it with `systemctl start docker`, or set `engine.host`")]
    Unreachable { host: String, why: String },
    #[error("the engine could not {what}: {why}")]
    Refused { what: String, why: String },
}

impl EngineError {
    pub(super) fn unreachable(host: &str, error: &Error) -> Self {
        EngineError::Unreachable { host: host.to_owned(), why: error.to_string() }
    }

    pub(super) fn from_bollard(host: &str, what: &str, error: &Error) -> Self {
        match error {
            Error::DockerResponseServerError { message, .. }
            | Error::DockerStreamError { error: message } => {
                EngineError::Refused { what: what.to_owned(), why: one_line(message) }
            }
            Error::JsonDataError { message, .. } => {
                EngineError::Refused { what: what.to_owned(), why: message.clone() }
            }
            other => EngineError::unreachable(host, other),
        }
    }

    fn why(&self) -> &str {
        match self {
            EngineError::Unreachable { why, .. } | EngineError::Refused { why, .. } => why,
        }
    }

    /// A build that ended badly.
    pub(super) fn into_build_fault(self) -> StepFault {
        match self {
            EngineError::Refused { why, .. } if ended_by_itself(&why) => {
                StepFault::Failure(format!("the build failed: {why}"))
            }
            EngineError::Refused { ref why, .. } if is_infrastructure(why) => {
                StepFault::transient(self.to_string())
            }
            EngineError::Refused { why, .. } => StepFault::Failure(format!("the build failed: {why}")),
            unreachable @ EngineError::Unreachable { .. } => unreachable.into(),
        }
    }

    /// An image that did not come, to build on or to run.
    pub(super) fn into_pull_fault(self, image: &str) -> StepFault {
        let missing = [
            "not found",
            "manifest unknown",
            "does not exist",
            "access denied",
            "invalid reference",
            "unauthorized",
            "no basic auth",
            "no matching manifest",
        ];
        match self {
            EngineError::Refused { why, .. } if why.contains(HIDDEN_REFUSAL) => StepFault::Failure(format!(
                "the image `{image}` cannot be pulled: its registry does not have it, or not for us"
            )),
            EngineError::Refused { why, .. } if has_any(&why, &missing) && !is_infrastructure(&why) => {
                StepFault::Failure(format!("the image `{image}` cannot be pulled: {why}"))
            }
            EngineError::Refused { why, .. } => {
                StepFault::transient(format!("the image `{image}` cannot be pulled now: {why}"))
            }
            unreachable @ EngineError::Unreachable { .. } => unreachable.into(),
        }
    }

    /// A push that did not arrive. `ca_file` is where the engine looks for the registry's authority.
    pub(super) fn into_push_fault(self, image: &str, ca_file: &std::path::Path) -> StepFault {
        let why = self.why();
        if why.contains("x509:") && why.contains("unknown authority") {
            return StepFault::lasting(format!(
                "the engine does not know the authority of the registry: put its certificate into {} on the engine's machine, then retry",
                ca_file.display()
            ));
        }
        if why.contains("x509:") {
            return StepFault::lasting(format!("the engine refuses the registry's certificate: {why}"));
        }
        if has_any(why, &["unauthorized", "no basic auth", "authentication required", "denied"]) {
            return StepFault::lasting(format!("the registry refused the push of {image}: {why}"));
        }
        match self {
            EngineError::Refused { why, .. } if why.contains(HIDDEN_REFUSAL) => StepFault::transient(
                format!("the registry refused the push of {image}; its own log says why"),
            ),
            EngineError::Refused { why, .. } => {
                StepFault::transient(format!("pushing {image} did not work: {why}"))
            }
            unreachable @ EngineError::Unreachable { .. } => unreachable.into(),
        }
    }
}

impl From<EngineError> for StepFault {
    fn from(error: EngineError) -> Self {
        StepFault::transient(error.to_string())
    }
}

/// What is left of a loopback registry's refusal: the engine then tries once more without
/// TLS and reports only how that went.
const HIDDEN_REFUSAL: &str = "Client sent an HTTP request to an HTTPS server";

/// A command of the build ran and said no. Looked at first, because the sentence quotes the
/// command and the command may contain anything.
fn ended_by_itself(why: &str) -> bool {
    has_any(why, &["returned a non-zero code", "exit code:", "executor failed running"])
        && !why.contains("context canceled")
}

fn is_infrastructure(why: &str) -> bool {
    has_any(
        why,
        &[
            "no space left on device",
            "read-only file system",
            "context canceled",
            "context deadline exceeded",
            "transport is closing",
            "code = Unavailable",
            "connection refused",
            "connection reset",
            "i/o timeout",
            "TLS handshake timeout",
            "no such host",
            "temporary failure in name resolution",
            "network is unreachable",
            "too many requests",
            "toomanyrequests",
            "cannot allocate memory",
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "unexpected EOF",
        ],
    )
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// The whole complaint on one line of a length a page can show.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: &str) -> EngineError {
        EngineError::Refused { what: "build".to_owned(), why: why.to_owned() }
    }

    #[test]
    fn the_users_code_and_the_machine_are_told_apart() {
        for failure in [
            "executor failed running [/bin/sh -c echo no space left on device; false]: exit code: 1",
            "The command '/bin/sh -c false' returned a non-zero code: 1",
            "dockerfile parse error line 1: unknown instruction: HELLO",
            "failed to compute cache key: \"/x\" not found: not found",
            "COPY failed: forbidden path outside the build context: ../../etc/passwd ()",
        ] {
            assert!(matches!(refused(failure).into_build_fault(), StepFault::Failure(_)), "{failure}");
        }
        for ours in ["write /var/lib/docker/x: no space left on device", "failed to solve: context canceled"]
        {
            assert!(
                matches!(refused(ours).into_build_fault(), StepFault::Error { retry: true, .. }),
                "{ours}"
            );
        }
    }

    #[test]
    fn a_missing_base_is_the_users_and_a_silent_registry_is_not() {
        let missing =
            refused("manifest for debian:none not found: manifest unknown").into_pull_fault("debian:none");
        assert!(matches!(missing, StepFault::Failure(_)));
        let silent =
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host";
        assert!(matches!(refused(silent).into_pull_fault("debian"), StepFault::Error { retry: true, .. }));
    }

    #[test]
    fn an_unknown_authority_names_the_file() {
        let why = "Get \"https://r.example.org/v2/\": x509: certificate signed by unknown authority";
        let fault = refused(why).into_push_fault(
            "r.example.org/x:1",
            std::path::Path::new("/etc/docker/certs.d/r.example.org/ca.crt"),
        );
        assert!(fault.to_string().contains("/etc/docker/certs.d/r.example.org/ca.crt"), "{fault}");
    }
}
