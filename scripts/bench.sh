#!/usr/bin/env bash
# What mergeyard costs, measured beside what it takes the place of, and how far that is from what it
# aims at. Sets up what is missing, builds for release, and prints tables. It ends badly only when
# something does not work, never because something is slow.
#
#   scripts/bench.sh                   everything, about a quarter of an hour
#   scripts/bench.sh ingest            webhooks received, beside Debian's `webhook`
#   scripts/bench.sh publish           merge to digest, beside `docker build` and `docker push` by hand
#   scripts/bench.sh deploy            merge to live on this machine, beside build, push, pull, run, curl, rm by hand
#   scripts/bench.sh pages             memory, start-up and pages with many past runs
#   scripts/bench.sh plan              500 steps in 50 workflows planned, in this process
#   scripts/bench.sh registry          images pushed and pulled, beside Debian's `docker-registry`
#   scripts/bench.sh steps             steps of a workflow, beside `docker run --rm` by hand
#   scripts/bench.sh logs              lines from a step to a browser, and a million of them kept
#   scripts/bench.sh --quick           shorter, and without a million runs
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}

"$here/setup.sh" --tests --bench
cargo build --manifest-path "$root/Cargo.toml" --release \
  --package mergeyard-server --bin mergeyard --package mergeyard-testkit --bin mergeyard-bench >&2
# The data lies beside the programs: a temporary folder may be memory, where being durable costs nothing.
exec "$here/with-engine.sh" "$target/release/mergeyard-bench" \
  --mergeyard "$target/release/mergeyard" --work "$target/bench" "$@"
