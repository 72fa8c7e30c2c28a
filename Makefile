# Everything a person or CI runs. Each target sets up its own environment first (see tools/setup.sh).
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=

.PHONY: help setup torch demo demo-rl test check format lock clean

help:
	@echo 'make setup   create $(VENV) from the lock file (system packages: installed when root, else named)'
	@echo 'make demo    publish two checkpoints through six nodes on loopback, and compare every byte'
	@echo 'make demo-rl  train a small policy: one trainer, two samplers that hot-load every version; draws the reward'
	@echo 'make test    run every test that needs no GPU (adds torch to $(VENV) first; TORCH=none: without the tests that need it)'
	@echo 'make check   format, lint, types, import contracts, sizes, container and service files'
	@echo 'make format  apply the formatter and the safe lint fixes'
	@echo 'make lock    resolve the dependencies again into the lock files'

setup:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' tools/setup.sh

demo: setup
	$(BIN)/shardcast demo

demo-rl: torch
	$(BIN)/python -m demos.rl_loop $(DEMO_ARGS)

torch: setup
	@VENV='$(VENV)' tools/torch.sh

test: torch
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not gpu' $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_tidy.py tests/test_packaging.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup
	@PYTHON='$(PYTHON)' VENV='$(VENV)' tools/lock.sh

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
