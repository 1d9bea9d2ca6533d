# Every verb is a line or two over a real tool; `make help` prints them.
PYTHON ?= python3
# A machine without a GPU may take the small build: TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS := api,worker,training,postgres,redis,dev

.DEFAULT_GOAL := help
.PHONY: help setup demo serve check test test-all bench

help:  ## Print this.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-9s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Install everything into .venv, at the versions of constraints.txt.

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps $(TORCH_INDEX_URL:%=--index-url %) $(shell grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' && touch $@

demo: setup  ## Train a real small model end to end: a few minutes, on a CPU too.
	@$(BIN)/python -m examples.demo

serve: setup  ## Serve the API and one worker on this machine, from ./data.
	$(BIN)/tunesmith serve

check: setup  ## Lint, format, types, floors.
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/lint-imports

test: setup  ## The tests that need nothing but Python.
	$(BIN)/pytest -m 'not slow and not gpu and not browser'

test-all: setup  ## The rest: many processes, a compiler, a browser.
	$(BIN)/pytest -m 'slow or browser'

bench: setup  ## Measure the figures of docs/benchmarks.md.
	for file in benchmarks/bench_*.py; do $(BIN)/python "$$file" || exit; done
