# The everyday commands. Everything runs in .venv, made on first use; needs python3 (3.11 or later)
# and make, no root. PYTHON=/path/to/python3 chooses the interpreter.

PYTHON ?= python3
# Also test on these versions, where this machine has them; TEST_PYTHONS= tests on .venv alone.
TEST_PYTHONS ?= 3.13
# Passed on: make test ARGS='-k retry', make run ARGS='--port 9000'
ARGS ?=
# The tests start hundreds of interpreters; without bytecode on disk each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
RUN_DIR := .run
WORKER_STORE ?= sqlite:///$(CURDIR)/$(RUN_DIR)/jobs.db

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench soak clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Serve the example tasks on http://127.0.0.1:8080, jobs kept in .run/jobs.db
	@mkdir -p $(RUN_DIR)
	@WORKER_STORE="$(WORKER_STORE)" exec $(BIN)/worker-runtime run $(ARGS)

test: $(VENV)/.installed-test ## Run the tests on .venv, and on each of TEST_PYTHONS that is here
	@$(BIN)/python scripts/test-pythons "$(TEST_PYTHONS)" $(ARGS)

check: $(VENV)/.installed-check ## Lint, format, types, floors: ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench ## Measure against the peers; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.installed-bench ## Kill a worker 1,000 times, then run one under mixed load
	$(BIN)/python -m tests.whole.faults.crash --cycles 1000
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean: ## Remove the environments, the caches and .run
	rm -rf .venv* $(RUN_DIR) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras, renewed when the dependencies change.
$(VENV)/.installed: pyproject.toml
	@scripts/venv $(VENV) "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml
	@scripts/venv $(VENV) "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
