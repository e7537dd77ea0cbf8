#!/usr/bin/env bash
# Brings docker-compose.yml up for real, with the given mergeyard binary, on free ports and under a name of
# its own; checks the server, the registry and the tunnel's API; and takes all of it down again. Images
# that no registry offers here are built from Debian's packages under the same names, and removed too.
#
#   scripts/compose-test.sh target/debug/mergeyard
set -euo pipefail
binary=$(realpath "${1:?which mergeyard binary?}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

start_seconds=90

main() {
  work=$(mktemp -d)
  trap take_down EXIT
  # Only what .dockerignore lets pass reaches the engine, and cargo's folder may be somewhere else.
  mkdir -p target/compose
  cp "$binary" target/compose/mergeyard
  provide registry:2 scripts/compose/registry
  provide ngrok/ngrok:latest scripts/compose/ngrok
  configure
  start
  the_server_is_ready
  the_registry_wants_verified_tls_and_the_login
  a_stock_client_pushes_and_pulls
  the_server_learns_its_public_address
  the_login_survives_a_second_start
  say "all good"
}

say() { printf 'compose: %s\n' "$*" >&2; }
die() { say "FAILED: $*"; exit 1; }
# With the words of what failed, which lie in the log.
fail() { tail -40 "$work/log" >&2; die "$@"; }

compose() {
  if command -v docker-compose >/dev/null; then docker-compose "$@"; else docker compose "$@"; fi
}

fail_with_logs() {
  { compose ps; compose logs --no-color --tail=10; } >>"$work/log" 2>&1
  fail "$@"
}

built=()
provide() {
  local image=$1 folder=$2
  ! docker image inspect "$image" >/dev/null 2>&1 || return 0
  ! docker pull -q "$image" >/dev/null 2>&1 || return 0
  say "no registry offers $image; building a stand-in"
  docker build -t "$image" "$folder" >"$work/log" 2>&1 || fail "$folder cannot be built"
  built+=("$image")
}

configure() {
  export COMPOSE_PROJECT_NAME=mergeyard-test-$$ COMPOSE_PROFILES=tunnel COMPOSE_FILE=docker-compose.yml
  export SERVER_BINARY=target/compose/mergeyard SERVER_IMAGE=$COMPOSE_PROJECT_NAME
  export CONFIG=$work/config NGROK_AUTHTOKEN=not-a-real-token
  export HTTP_PORT REGISTRY_PORT DOCKER_GID
  HTTP_PORT=$(free_port) REGISTRY_PORT=$(free_port)
  DOCKER_GID=$(stat -c %g /var/run/docker.sock)
  mkdir "$CONFIG"
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$CONFIG/webhook_secret"
  printf '[github]\nwebhook_secret = { file = "webhook_secret" }\n[[repo]]\nname = "owner/*"\n' >"$CONFIG/mergeyard.toml"
  chmod -R a+rX "$work"
}

# One below the range from which the kernel takes ports for outgoing connections.
free_port() {
  local port
  while port=$((10000 + RANDOM % 20000)); (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; do :; done
  echo "$port"
}

start() {
  compose up -d >"$work/log" 2>&1 || fail_with_logs "compose cannot start what docker-compose.yml describes"
}

the_server_is_ready() {
  wait_for "the server's /readyz" curl -fsS -o "$work/ready" "http://127.0.0.1:$HTTP_PORT/readyz"
  wait_for "the registry" curl -sk -o "$work/v2" "https://localhost:$REGISTRY_PORT/v2/"
  say "the server is ready"
}

wait_for() {
  local what=$1 deadline=$((SECONDS + start_seconds))
  shift
  until "$@" >"$work/log" 2>&1; do
    ((SECONDS < deadline)) || fail_with_logs "$what did not answer within $start_seconds s"
    sleep 0.2
  done
}

the_registry_wants_verified_tls_and_the_login() {
  mkdir -p "$work/certificates"
  compose exec -T server cat /certificates/ca.pem >"$work/certificates/ca.crt"
  password=$(compose exec -T server cat /certificates/password)
  local url=https://localhost:$REGISTRY_PORT/v2/
  [[ $(status --cacert "$work/certificates/ca.crt" "$url") == 401 ]] || die "the registry asks nobody to log in"
  [[ $(status --cacert "$work/certificates/ca.crt" -u "mergeyard:wrong" "$url") == 401 ]] || die "the registry takes a wrong password"
  [[ $(status --cacert "$work/certificates/ca.crt" -u "mergeyard:$password" "$url") == 200 ]] || die "the registry refuses the login that was made for it"
  [[ $(status "$url") == 000 ]] || die "the registry's certificate is trusted without its authority"
  say "the registry wants verified TLS and the login"
}

status() { curl -s -o "$work/body" -w '%{http_code}' "$@" || true; }

a_stock_client_pushes_and_pulls() {
  tar -C scripts -cf "$work/layer.tar" compose-test.sh
  docker import "$work/layer.tar" "$SERVER_IMAGE-sample:1" >/dev/null
  skopeo copy -q --dest-cert-dir "$work/certificates" --dest-creds "mergeyard:$password" \
    "docker-daemon:$SERVER_IMAGE-sample:1" "docker://localhost:$REGISTRY_PORT/sample:1"
  digest=$(pushed_digest)
  [[ $digest == sha256:* ]] || die "a stock client cannot read what it pushed"
  # From inside the server's container the same name and port are the same registry.
  compose exec -T server openssl s_client -brief -verify_return_error -verify_hostname localhost \
    -CAfile /certificates/ca.pem -connect "localhost:$REGISTRY_PORT" </dev/null >"$work/log" 2>&1 ||
    fail "the server does not reach the registry as localhost:$REGISTRY_PORT over verified TLS"
  say "a stock client pushes and pulls, and the server reaches the registry by the same name"
}

pushed_digest() {
  skopeo inspect --cert-dir "$work/certificates" --creds "mergeyard:$password" --format '{{.Digest}}' \
    "docker://localhost:$REGISTRY_PORT/sample:1"
}

the_server_learns_its_public_address() {
  wait_for "the tunnel's API" ask server ngrok 4040 /api/tunnels
  local address
  address=$(ask server ngrok 4040 /api/tunnels | jq -r '.tunnels[0].config.addr')
  [[ $address == http://server:8088 ]] || die "the tunnel leads to '$address', not to the server"
  [[ $(ask ngrok server 8088 /healthz) ]] || die "the tunnel's container does not reach the server"
  say "the server learns its public address, and the tunnel reaches the server"
}

# The body of a GET from inside a container, which has bash and no HTTP client.
ask() {
  compose exec -T "$1" bash -c "exec 3<>/dev/tcp/$2/$3 && printf 'GET $4 HTTP/1.1\r\nHost: $2:$3\r\nConnection: close\r\n\r\n' >&3 && cat <&3" >"$work/answer"
  [[ $(head -1 "$work/answer") == *' 200 '* ]] && sed '1,/^\r$/d' "$work/answer"
}

the_login_survives_a_second_start() {
  compose down >"$work/log" 2>&1
  start
  the_server_is_ready
  [[ $(compose exec -T server cat /certificates/password) == "$password" ]] || die "a second start made another login"
  [[ $(pushed_digest) == "$digest" ]] || die "a second start lost the image that was pushed before"
  say "a second start keeps authority, login and images"
}

take_down() {
  local status=$?
  say "taking it down"
  {
    compose down -v --remove-orphans
    docker rmi "$SERVER_IMAGE" "$SERVER_IMAGE-sample:1" "${built[@]}"
  } >"$work/down" 2>&1 || true
  rm -rf "$work" target/compose
  exit "$status"
}

main
