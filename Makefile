# Everything a newcomer types. `make help` lists it.
SHELL := /bin/sh
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.installed
# One more than there are cores: some tests wait for processes and do not compute.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)
# Wheels carry their own trust store; the machine's may know more.
export UV_SYSTEM_CERTS := true
export UV_LINK_MODE := copy
export UV_NO_PROGRESS := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(STAMP) ## make .venv with the talktime command in it

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Talktime needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: setup ## show all of it: make demo, or make demo DEMO_ARGS=--once
	@$(BIN)/talktime demo $(DEMO_ARGS)

.PHONY: test
test: setup ## run all tests: make test, or make test TEST_ARGS='-k heartbeats'
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TEST_ARGS)

.PHONY: browser
browser: setup ## the pages in a real browser: make browser, or make browser TEST_ARGS='-k sign_in' (needs chromium)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -o python_files='browse_*.py' tests/browser $(TEST_ARGS)

.PHONY: screenshots
screenshots: setup ## a picture of each page in both themes and at a phone's width, in screenshots/ (needs chromium)
	@$(BIN)/python -m pytest -q -s -o python_files='screenshot_*.py' tests/browser $(TEST_ARGS)

.PHONY: stateful
stateful: setup ## random histories against a model: make stateful SEED=7 MAX=1000
	@STATEFUL_SEED=$(or $(SEED),1) STATEFUL_RUNS=$(or $(MAX),300) \
		$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests/stateful

.PHONY: sim
sim: setup ## simulated worlds with every fault: make sim SEEDS=200, or make sim SEED=7 to see one again
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200) --first $(or $(FIRST),1)) \
		$(if $(ONLY),--only=$(ONLY))

.PHONY: cuts
cuts: setup ## connections cut before and after every COMMIT of the money path
	@CUTS_ALL=1 $(BIN)/python -m pytest -q tests/cuts

.PHONY: turnstile
turnstile: setup ## all orders of two or three at once: make turnstile, or with PAIR=start/start SCHEDULE=a12b3, SHARE=10
	@$(BIN)/python -m tests.turnstile $(if $(PAIR),--pair $(PAIR)) $(if $(SCHEDULE),--schedule $(SCHEDULE)) \
		--share $(or $(SHARE),100) --seed $(or $(SEED),1) $(if $(MOST),--most $(MOST))

.PHONY: storm
storm: setup ## real processes, killed every few seconds, all faults at once: make storm, or make storm SESSIONS=200 SEED=7
	@$(BIN)/python -m tests.storm --sessions $(or $(SESSIONS),2000) $(if $(SEED),--seed $(SEED))

.PHONY: deliveries
deliveries: setup ## events to 20 endpoints, some of which fail, with two kills: make deliveries, or with EVENTS=1000 SEED=7
	@$(BIN)/python -m tests.deliveries --events $(or $(EVENTS),10000) --seed $(or $(SEED),1)

.PHONY: schema
schema: setup ## every operation called as its schema says and otherwise: make schema, or make schema SECONDS=600 SEED=7
	@$(BIN)/python -m tests.conformance --seconds $(or $(SECONDS),120) --seed $(or $(SEED),1)

.PHONY: bugzoo
bugzoo: setup ## planted bugs, each against the layer that finds it: make bugzoo, or make bugzoo BUG=gap-off-by-one
	@$(BIN)/python -m tests.bugzoo $(BUG)

.PHONY: figures
figures: setup ## crowds of clients, storms of repeated requests: make figures, or make figures SHARE=5 (percent)
	@FIGURES_SHARE=$(or $(SHARE),100) $(BIN)/python -m pytest -q -s -o python_files='figure_*.py' tests/figures $(TEST_ARGS)

.PHONY: check
check: setup ## lint, types, import contract, container files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/hadolint Dockerfile
	@! grep -nE 'https?://' requirements.lock

.PHONY: format
format: setup ## put the code into its form
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

.PHONY: bench
bench: setup ## measure, and write docs/performance.md
	@$(BIN)/python -m benchmarks

.PHONY: client
client: setup ## write the Python client anew from the API document, and its reference
	@$(BIN)/python -m tools.client
	@$(BIN)/python -m tools.reference
.PHONY: live
live: setup ## measure 10,000 idle streams, and write it into docs/performance.md
	@$(BIN)/python -m benchmarks.live --write

.PHONY: lock
lock: setup ## pin the dependencies of pyproject.toml anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements.lock pyproject.toml

.PHONY: clean
clean: ## remove what the other targets made
	@rm -rf .venv .talktime .mypy_cache .ruff_cache .import_linter_cache .hypothesis
