# `make` lists the targets. Everything runs in .venv, which .ci/bootstrap.sh makes from requirements.lock.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.stamp
# Choose the Python of the environment: make env PYTHON=python3.12
export PYTHON

# More arguments for pytest: make test PYTEST_ARGS="-k parser"
PYTEST_ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@for file in $(wildcard benchmarks/[a-z]*.py); do \
	  name=$$(basename $$file .py); printf "  %-16s %s\n" "bench-$${name//_/-}" "run $$file"; done

.PHONY: env
env: $(STAMP) ## make or update the environment in .venv

# A second make does nothing until the lock or the project's metadata change.
$(STAMP): requirements.lock pyproject.toml .ci/bootstrap.sh
	@.ci/bootstrap.sh

.PHONY: demo
demo: $(STAMP) ## from nothing to a result: data, training, tuning, service, report in runs/demo
	$(PY) -m cluster.demo

.PHONY: test
test: $(STAMP) ## all tests but slow and chaos (PYTEST_ARGS="-k name" for some)
	$(PY) -m pytest $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## the tests that take minutes each
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

.PHONY: chaos
chaos: $(STAMP) ## faults of machines, disks and storage (as root: machines in network namespaces)
	$(PY) -m pytest -m chaos $(PYTEST_ARGS)

.PHONY: check
check: $(STAMP) ## lint, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: format
format: $(STAMP) ## format the code and mend what the linter can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: docs
docs: $(STAMP) ## the site of docs/ in dist/site; a warning fails
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

.PHONY: ci
ci: ## what the CI runs: check, test, and a look at what was skipped
	.ci/run

.PHONY: lock
lock: ## pin the newest versions that pyproject.toml allows (needs uv and the network)
	uv pip compile pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 --upgrade \
	  --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

.PHONY: release-check
release-check: $(STAMP) ## is this a release? version, changelog, and the wheel at work outside the checkout
	$(PY) .ci/release_check.py $(ARGS)

.PHONY: soak
soak: $(STAMP) ## 15 minutes of mixed load on the service (PHOTOS=folder of pictures of one face each)
	$(PY) -m benchmarks.soak --photos $(PHOTOS) $(ARGS)

# make bench-ingest runs benchmarks/ingest.py; more arguments by ARGS="..."
bench-%: $(STAMP)
	$(PY) -m benchmarks.$(subst -,_,$*) $(ARGS)

.PHONY: hooks
hooks: $(STAMP) ## run the checks before every commit
	$(PY) -m pre_commit install

.PHONY: clean
clean: ## remove caches and runs; the environment and data stay
	rm -rf runs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
