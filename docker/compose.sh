# Read by the other scripts: `compose` runs Compose v2 or the older docker-compose on this stack.
cd "$(dirname "$0")"
compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --file compose.yaml "$@"
  else
    docker-compose --file compose.yaml "$@"
  fi
}
