# Every target sets up what it needs: on a fresh machine `make test` and `make demo` are enough.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND ?= Agg

.PHONY: help demo test lint docs bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[plot,lumbar,docs,dev]"
	touch $@

.venv/bench: .venv/installed benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/requirements.txt
	touch $@

demo: .venv/installed  ## train a small two-headed U-net on synthetic anatomy, attack each head: results/demo/
	$(BIN)/lumbar-disk demo --out results/demo

test: .venv/installed  ## the tests, the docstring examples and the code in the docs
	$(BIN)/python -m pytest

lint: .venv/installed  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed  ## build docs/_build/html, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: .venv/bench  ## speed and memory as ratios in one run; needs a quiet machine
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/ood.py

clean:  ## remove what the targets made
	rm -rf .venv docs/_build results .pytest_cache .mypy_cache .ruff_cache
