# Needs Python 3.11 or newer and make, nothing else. PYTHON=… chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FRESH := build/gen
IMAGE := $(FRESH)/paymesh/descriptors.binpb
SECRETS ?= deploy/secrets

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)

.DEFAULT_GOAL := help
.PHONY: help setup gen fresh gen-check lint format types breaking test check demo bench \
	bench-night faults faults-all faults-real planted soak night mutants conformance secrets lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv from requirements.lock (by itself before everything else here)

# The one source package in the lock is built with the locked setuptools, not the newest one.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Paymesh needs Python 3.11 or newer; name it: make PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^setuptools==/,/# via/p' requirements.lock > $(VENV)/setuptools.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r $(VENV)/setuptools.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
		--no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@

gen: setup ## generate gen/ and docs/state-machines.md
	$(BIN)/python tools/gen.py
	$(BIN)/python tools/states.py

fresh: setup
	@$(BIN)/python tools/gen.py --out $(FRESH)

gen-check: fresh ## what is generated is fresh
	@diff -rq -x __pycache__ gen $(FRESH) || { echo "gen/ is stale: run make gen"; exit 1; }
	@$(BIN)/python tools/states.py --check

lint: fresh ## style, layers, contracts and containers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint $(IMAGE)
	$(BIN)/hadolint deploy/Dockerfile
	@$(BIN)/python tools/compose.py

format: setup ## put style right where a tool can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup ## mypy --strict
	$(BIN)/mypy

breaking: fresh ## no contract of main is broken
	@$(BIN)/python tools/breaking.py $(IMAGE)

# A file's tests stay together, because they share servers. What starts whole meshes, and counts on
# their time, runs by itself.
TEST_JOBS ?= 2
WHOLE := tests/faults tests/flow tests/night

test: setup ## the fast tests (TEST_JOBS=0: in one process)
	$(BIN)/pytest tests $(addprefix --ignore=,$(WHOLE)) -m "not slow" -n $(TEST_JOBS) --dist loadfile
	$(BIN)/pytest $(WHOLE) -m "not slow"

check: lint types gen-check breaking test ## what CI runs

demo: setup ## the mesh, and a first payment through it
	$(BIN)/paymesh demo

bench: setup ## measure
	$(BIN)/python -m bench

bench-night: setup ## measure a night: a million lines, and 500 MB of camt.053
	$(BIN)/python -m bench.settlement

faults: setup ## every fault, and pairs of faults, in one process: docs/faults.md
	$(BIN)/python -m bench.failpoints
	$(BIN)/python -m tests.faults.engine --report docs/faults.md

faults-all: setup ## all pairs of four flows, 20,000 triples, 10,000 races; hours (PART=1/4)
	$(BIN)/python -m tests.faults.engine --all --triples 20000 --part $(or $(PART),1/1)
	$(BIN)/python -m tests.faults.engine --races 10000 --part $(or $(PART),1/1)

faults-real: setup ## kill and stop real services at named moments (PAIRS=500) and under load
	$(BIN)/python -m tests.faults.real --pairs $(or $(PAIRS),500)
	$(BIN)/pytest tests/faults -m slow

planted: setup ## plant 35 bugs, each of which must be caught: docs/planted-bugs.md
	$(BIN)/python -m tests.faults.planted --report docs/planted-bugs.md

# NIGHT_PAYMENTS=… NIGHT_EACH=… NIGHT_FILES=… make it shorter or longer.
night: setup ## seed 100,000 payments with faults of each class, and mix 20,000 of all tokens
	$(BIN)/pytest tests/night -m slow

mutants: setup ## change the rules one place at a time: a unit test must fail (FILES=… JOBS=…)
	$(BIN)/python -m tools.mutants $(if $(JOBS),--jobs $(JOBS)) \
		$(or $(FILES),--report docs/mutation.md)

# Readable for the services, which are not root, in a folder that is closed: see docker-compose.yml.
secrets: ## the passwords of docker-compose.yml; those that are there stay
	@install -d -m 700 $(SECRETS)
	@umask 022; for name in postgres payment executor wallet ledger psp_stub; do \
		test -s $(SECRETS)/$$name || $(PYTHON) -c \
			'import secrets; print(secrets.token_urlsafe(32))' > $(SECRETS)/$$name || exit 1; \
	done

soak: setup ## load, faults, then a night: MINUTES=10, SEED=… to repeat one
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

conformance: setup ## try a PSP adapter: TARGET=host:port ARGS=…; without them the stub
	$(BIN)/python -m tests.conformance $(if $(TARGET),--target $(TARGET)) $(ARGS)

lock: ## pin pyproject.toml's dependencies anew (needs uv)
	uv --no-config pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

clean: ## remove what make made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
