#!/usr/bin/env bash
# Runs the OCI distribution specification's own conformance suite, all of its categories, against a
# registry that is started for it in a temporary directory on a free port. Ends badly when a spec fails
# or a category is left out.
#
#   scripts/conformance.sh            the released suite, cloned from GitHub
#   scripts/conformance.sh FOLDER     a checkout of it: the folder that has its go.mod
#
# Needs Go. The reports lie in target/conformance afterwards.
set -euo pipefail
suite=${1:+$(realpath "$1")}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
reports=$target/conformance

# The release whose text the registry follows. What comes after it is tried with a checkout.
repository=https://github.com/opencontainers/distribution-spec
release=v1.1.1
start_seconds=30

main() {
  PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || die "no go in PATH; the suite is a Go program: install Go from https://go.dev/dl"
  work=$(mktemp -d)
  trap take_down EXIT
  [[ -n $suite ]] || fetch
  build
  start
  run
  judge
}

say() { printf 'conformance: %s\n' "$*" >&2; }
die() { say "FAILED: $*"; exit 1; }
fail() { tail -40 "$work/log" >&2; die "$@"; }

registry_pid=
take_down() {
  if [[ -n $registry_pid ]]; then
    kill "$registry_pid" 2>/dev/null || true
    wait "$registry_pid" 2>/dev/null || true
  fi
  rm -rf "$work"
}

fetch() {
  say "fetching the suite of $release from $repository"
  git clone --quiet --depth 1 --branch "$release" "$repository" "$work/specification" >"$work/log" 2>&1 ||
    fail "the suite cannot be fetched from here; get a checkout and name its folder 'conformance' as the argument"
  suite=$work/specification/conformance
}

build() {
  [[ -f $suite/go.mod ]] || die "$suite has no go.mod; name the folder 'conformance' of a checkout of $repository"
  say "building the suite and the registry"
  (cd "$suite" && go test -c -o "$work/suite" .) >"$work/log" 2>&1 || fail "the suite in $suite cannot be built"
  [[ -x $work/suite ]] || die "$suite has no tests; is it the suite of $release?"
  cargo build --quiet --manifest-path "$root/Cargo.toml" --package mergeyard-server --bin mergeyard
}

# The suite moves a tag from one manifest to another, which only repositories with tags that may change allow.
start() {
  printf '%s\n' "data_dir = \"$work/data\"" '[registry]' 'listen = "127.0.0.1:0"' \
    '[[registry.repository]]' 'name = "conformance/**"' 'mutable_tags = ["**"]' >"$work/mergeyard.toml"
  "$target/debug/mergeyard" --config "$work/mergeyard.toml" registry serve >"$work/log" 2>&1 &
  registry_pid=$!
  local deadline=$((SECONDS + start_seconds))
  until address=$(grep -oE '127\.0\.0\.1:[0-9]+' "$work/log"); do
    kill -0 "$registry_pid" 2>/dev/null || fail "the registry does not start"
    ((SECONDS < deadline)) || fail "the registry is not ready after $start_seconds s"
    sleep 0.1
  done
}

# A blob that the repository has already is mounted without saying from where, so that part of the
# suite is asked to expect success.
run() {
  say "running the suite against https://$address"
  rm -rf "$reports"
  mkdir -p "$reports"
  env SSL_CERT_FILE="$work/data/ca/ca.crt" OCI_ROOT_URL="https://$address" \
    OCI_NAMESPACE=conformance/suite OCI_CROSSMOUNT_NAMESPACE=conformance/mounted OCI_AUTOMATIC_CROSSMOUNT=1 \
    OCI_USERNAME=mergeyard OCI_PASSWORD="$(<"$work/data/registry-password")" \
    OCI_TEST_PULL=1 OCI_TEST_PUSH=1 OCI_TEST_CONTENT_DISCOVERY=1 OCI_TEST_CONTENT_MANAGEMENT=1 \
    OCI_REPORT_DIR="$reports" "$work/suite" -ginkgo.no-color >"$reports/output.txt" 2>&1 || true
}

judge() {
  local summary category
  summary=$(grep -oE '[0-9]+ Passed \| [0-9]+ Failed \| .*' "$reports/output.txt") ||
    { tail -40 "$reports/output.txt" >&2; die "the suite did not come to its end"; }
  say "$summary"
  for category in Pull Push 'Content Discovery' 'Content Management'; do
    grep -qE "<testcase name=\"[^\"]*Tests $category [^\"]*\"[^>]*status=\"passed\"" "$reports/junit.xml" ||
      die "the category $category was skipped or did nothing; see $reports"
  done
  # These are what the suite says of features it tolerates the absence of.
  ! grep -E 'WARNING: .* (not supported|not implemented)' "$reports/output.txt" >&2 || die "the suite warns of the above"
  [[ $summary == *' 0 Failed '* ]] || {
    sed -nE 's/.*\[FAIL\] /  /p' "$reports/output.txt" | sort -u >&2
    die "the specs above fail; their requests are in $reports"
  }
}

main
