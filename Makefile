# Everything a newcomer types. Each target makes the environment first if it is missing or out of date.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup run generate test acceptance compile check format bench train docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## Create .venv with everything, the diptych command included

# The interpreter is built once; torch comes first so that the pinned build is the one that everything else
# resolves against.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "diptych needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'from diptych import compiled; print("control plane:", compiled.describe())'
	touch $@

run: $(STAMP) ## Serve the built-in model on http://127.0.0.1:8000 (more: ARGS="--decode 2")
	$(BIN)/diptych serve $(ARGS)

generate: $(STAMP) ## One prompt through the split path, with its timeline (ARGS="'Your prompt'")
	$(BIN)/diptych generate $(ARGS)

test: $(STAMP) ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

acceptance: $(STAMP) ## Simulator and planner against published figures (ARGS="--only T3,T5 --data DIR")
	$(BIN)/python -m diptych.planning.acceptance $(ARGS)

compile: $(STAMP) ## Compile the control plane again after a change (setup does it once)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps -e .
	@$(BIN)/python -c 'from diptych import compiled; print("control plane:", compiled.describe())'

check: $(STAMP) ## Lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## Rewrite the code in the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure this machine (benchmarks/README.md)
	$(BIN)/python -m benchmarks $(ARGS)

train: $(STAMP) ## Train the built-in model again from its generated corpus
	$(BIN)/python -m training.tales.train --out src/diptych/builtin/tales $(ARGS)

docs: $(STAMP) ## Write the generated pages of docs/ again
	$(BIN)/python docs/generate.py

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
