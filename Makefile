# Every verb is a line or two over a real tool; `make help` prints them.
PYTHON ?= python3
# A machine without a GPU may take the small build: TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS := api,worker,training,postgres,redis,dev
DEEPSPEED := .venv/deepspeed
# What neither environment may get from an open range: that brings gigabytes to a machine without a GPU.
TORCH := --no-deps $(TORCH_INDEX_URL:%=--index-url %) $(shell grep '^torch==' constraints.txt)
# Two busy threads on two busy cores wait for each other most of the time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
OLDER_SDK := .venv/sdk/openai-1.109.1

.DEFAULT_GOAL := help
.PHONY: help setup demo serve check test test-all test-gpu openapi bench bench-gpu

help:  ## Print this.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-9s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Install everything into .venv, at the versions of constraints.txt.

$(INSTALLED): pyproject.toml constraints.txt tests/sdk/older.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(OLDER_SDK) --requirement tests/sdk/older.txt && touch $@

demo: setup  ## Train a real small model end to end: a few minutes, on a CPU too.
	@$(BIN)/python -m examples.demo

serve: setup  ## Serve the API and one worker on this machine, from ./data.
	$(BIN)/tunesmith serve

check: setup  ## Lint, format, types, floors.
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/lint-imports

test: setup  ## The tests that need nothing but Python.
	$(PYTEST) -m 'not slow and not gpu and not browser' -n logical --maxprocesses 4 --dist loadfile

test-all: setup $(DEEPSPEED)  ## The rest: many processes, a compiler, a browser.
	$(PYTEST) -m 'slow or browser'

test-gpu: setup  ## The tests that need a GPU.
	$(PYTEST) -m gpu

# Built beside the torch that is installed; its parts are compiled when first used.
$(DEEPSPEED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools wheel ninja
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed && touch $@

openapi: setup  ## Write docs/openapi.json anew, which a test compares with the server's.
	$(BIN)/python -m api.snapshot > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

bench: setup  ## Measure the figures of docs/benchmarks.md.
	for file in benchmarks/bench_*.py; do $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)" || exit; done

# TRL has an environment of its own, so that neither decides the other's versions.
bench-gpu: setup .venv-trl/installed  ## Measure training on this machine's GPU, against TRL and a bare loop.
	$(BIN)/python -m benchmarks.bench_gpu

.venv-trl/installed: constraints.txt
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet $(TORCH)
	.venv-trl/bin/pip install --quiet --constraint constraints.txt trl==1.16.0 peft bitsandbytes && touch $@
