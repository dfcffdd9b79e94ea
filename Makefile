# Every target sets up what it needs: on a fresh machine `make test` and `make demo` are enough.
PYTHON ?= python3
BIN := .venv/bin
SPIDER ?= $(or $(LUMBAR_DATA),../shared/data)/spider
WORKERS ?= 2
export MPLBACKEND ?= Agg

.PHONY: help demo test lint docs bench strength clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[plot,lumbar,docs,dev]"
	touch $@

.venv/bench: .venv/installed benchmarks/requirements.txt benchmarks/requirements-no-deps.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/requirements-no-deps.txt
	touch $@

demo: .venv/installed  ## train a small two-headed U-net on synthetic anatomy, attack each head: results/demo/
	$(BIN)/lumbar-disk demo --out results/demo

test: .venv/installed  ## the tests, the docstring examples and the code in the docs, in two processes
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

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
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/sliding.py
	$(BIN)/python benchmarks/assumptions.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/diagnostics.py

strength: .venv/bench  ## damage per forward pass, ours and peers', on two trained models: some hours
	$(BIN)/lumbar-disk study --size small --data spider --root $(SPIDER) --out results/small-spider \
		--models P10_std --models P10_adv_rs --no-report
	$(BIN)/python benchmarks/agreement.py --study results/small-spider
	$(BIN)/python benchmarks/strength.py --study results/small-spider
	$(BIN)/python benchmarks/strength.py --scenes segmentation points depth --passes 20 100 --radii 0.02 0.05

clean:  ## remove what the targets made
	rm -rf .venv docs/_build results .pytest_cache .mypy_cache .ruff_cache
