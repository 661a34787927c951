# shellcheck shell=bash
# Where the database is: CARILLON_POSTGRES_URL, else the `postgres` of the compose project. (COMPOSE_FILE and
# COMPOSE_PROJECT_NAME choose another project, as they do for docker compose.)

# in_postgres COMMAND: run it by a shell where PostgreSQL's programs find the database by themselves.
in_postgres() {
    if [ -n "${CARILLON_POSTGRES_URL:-}" ]; then
        # As a variable and not as an argument, which every user of this machine could read.
        PGURL=$CARILLON_POSTGRES_URL sh -euc "$1"
    else
        # shellcheck disable=SC2016  # for the container's shell
        docker compose exec -T postgres sh -euc 'PGURL="postgresql:///$POSTGRES_DB?user=$POSTGRES_USER"; '"$1"
    fi
}

say() { echo "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}
