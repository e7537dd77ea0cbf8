#!/usr/bin/env bash
# Runs a command that uses the Docker engine. A login older than scripts/setup.sh's first run does not
# carry the group docker yet; the command then gets it from sg, so that nobody has to log in again.
set -euo pipefail

if ((EUID == 0)) || [[ -n ${DOCKER_HOST:-} || -w /var/run/docker.sock ]]; then
  exec "$@"
fi
exec sg docker -c "exec $(printf '%q ' "$@")"
