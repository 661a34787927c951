# Everything a developer types. Each target installs what it needs, and none needs a server that is running; those that
# speak of containers need Docker.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up down demo test k8s compose-test cluster-test matrix restore-drill upgrade-test check bench soak timing chaos simulate format lock

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 21

up: $(VENV)/ok ## start servers and services on loopback; REPLICAS=2 for two of each, CARILLON_* reach the services
	@$(BIN)/python -m deploy.local up

down: $(VENV)/ok ## stop all of it; data, logs and mails stay in .local/
	@$(BIN)/python -m deploy.local down

demo: $(VENV)/ok ## everything from nothing: start, schedule ten tasks, watch them being called
	@$(BIN)/python -m deploy.demo

test: $(VENV)/ok ## all tests, fast ones first, on real servers of their own
	$(BIN)/pytest -q tests/unit tests/contract tests/http tests/client tests/deploy
	$(BIN)/pytest -q tests/local tests/integration
	$(BIN)/pytest -q tests/e2e
	$(BIN)/pytest -q tests/chaos
	$(BIN)/pytest -q tests/browser

compose-test: $(VENV)/ok ## compose.yaml in containers: smoke test, replicas, crashes, a cut network; BASE_IMAGES=folder
	$(BIN)/pytest -q -p no:randomly tests/compose

cluster-test: $(VENV)/ok ## three RabbitMQ nodes in containers, killed under load (5 minutes; not in CI)
	@$(BIN)/python -m tests.cluster

matrix: $(VENV)/ok ## integration tests on RabbitMQ 4 and 3.10, PostgreSQL 17 and 15, Redis 8 and 7, in containers
	@$(BIN)/python -m tests.matrix

restore-drill: $(VENV)/ok ## back up, destroy, restore into an empty stack of containers, check every promise (6 minutes)
	@$(BIN)/python -m tests.restore

upgrade-test: $(VENV)/ok ## REF=the release you run: from it to this one under load, side by side on one set of servers
	@$(BIN)/python -m tests.upgrade $(or $(REF),$(error REF=<tag or revision> is missing))

check: $(VENV)/ok ## lint, types, imports, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.layout

bench: $(VENV)/ok ## Carillon beside its peers in one run, as in docs/performance.md; NAMES="Carillon BullMQ" for some
	@$(BIN)/python -m benchmarks.peers $(NAMES)

soak: $(VENV)/ok ## half an hour at 300 tasks/s: what grows, and whether lateness stays; MINUTES=3, RATE=300 for another
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),30) --rate $(or $(RATE),300)

timing: $(VENV)/ok ## the scheduler alone: lateness, bursts, a frozen replica, ten million waiting rows (10 minutes)
	@$(BIN)/python -m benchmarks.timing

chaos: $(VENV)/ok ## everything breaks, under load: SEED=n to plan it again, MINUTES=3; were the promises kept?
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

simulate: $(VENV)/ok ## scheduler and dispatcher without time on faulty fakes: SEEDS=2000 lives, each a dozen tasks
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),2000)

format: $(VENV)/ok ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

k8s: $(VENV)/ok ## render k8s/install.yaml anew
	@$(BIN)/python -m deploy.render

lock: ## make the lock files anew (needs uv)
	env -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u PIP_FIND_LINKS uv pip compile --universal --python-version 3.11 \
	    --generate-hashes --no-header --quiet pyproject.toml --output-file requirements.lock
	env -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u PIP_FIND_LINKS uv pip compile --universal --python-version 3.11 \
	    --generate-hashes --no-header --quiet pyproject.toml --extra otel --constraints requirements.lock \
	    --output-file requirements-otel.lock
	env -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u PIP_FIND_LINKS uv pip compile --universal --python-version 3.11 \
	    --generate-hashes --no-header --quiet pyproject.toml --extra local --extra otel --extra dev \
	    --output-file requirements-dev.lock

$(VENV)/ok: requirements-dev.lock
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: needs Python 3.11 or newer with venv (Debian and Ubuntu: apt install python3-venv)," \
	    "or name one: make PYTHON=python3.13" >&2; exit 1; }
	@echo "setting up $(VENV) from requirements-dev.lock"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable client
	@touch $@
