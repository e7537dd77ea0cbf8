#!/usr/bin/env bash
# Everything that must hold before a change is taken. Sets up what is missing, then goes through the
# phases below and stops at the first that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
  phase "set-up" scripts/setup.sh --tests
  phase "format" cargo fmt --all --check
  phase "scripts" check_scripts
  phase "clippy" cargo clippy --workspace --all-targets -- -D warnings
  phase "build" cargo build --package mergeyard-server --bin mergeyard
  phase "compose" scripts/with-engine.sh scripts/compose-test.sh "${CARGO_TARGET_DIR:-target}/debug/mergeyard"
  phase "tests" scripts/with-engine.sh cargo test --workspace
  printf 'test.sh: all good;%s\n' "${times%,}"
}

times=
phase() {
  local name=$1 begin=$SECONDS status=0
  shift
  printf '\ntest.sh: %s: %s\n' "$name" "$*"
  "$@" || status=$?
  times+=" $name $((SECONDS - begin)) s,"
  ((status == 0)) || { printf 'test.sh: FAILED in phase %s (exit code %d);%s\n' "$name" "$status" "${times%,}"; exit "$status"; }
}

# Bash does not stop at a failing command inside a phase, so the checks are one chain.
check_scripts() {
  shellcheck scripts/*.sh .ci/run scripts/compose/registry/entrypoint.sh scripts/compose/ngrok/{ngrok,answer} examples/clock/up.sh examples/clock/vm/*.sh \
    examples/yum-lab/lab/{,hosts/}*.sh &&
    lint_playbook examples/clock/ansible && lint_playbook examples/yum-lab/ansible &&
    find examples -name '*.json' -exec jq empty {} + &&
    python3 -c 'import sys, xml.dom.minidom as xml; [xml.parse(file) for file in sys.argv[1:]]' examples/clock/vm/vm.xml &&
    # Each folder of the clock is a build context of its own, so the HTTP part lies in both. It is one file.
    cmp examples/clock/{backend,frontend}/http.rs
}

# The linter starts where the project is, and asks nobody on the network.
lint_playbook() (
  cd "$1" && ansible-lint --offline --nocolor
)

main
