#!/usr/bin/env bash
# The main job on this machine with nothing prepared: sets up what is missing, builds mergeyard, and runs
# `mergeyard demo` with the arguments given here. Standard output is the demo's alone, so that
# `scripts/demo.sh --once --format json` prints one JSON document.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}

"$here/setup.sh"
cargo build --manifest-path "$root/Cargo.toml" --package mergeyard-server --bin mergeyard >&2
exec "$here/with-engine.sh" "$target/debug/mergeyard" demo "$@"
