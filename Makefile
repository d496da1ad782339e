# One place for everything that is run at the desk and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# by path, or the folder that holds the clone would hide the package of the same name
EDITABLE := --config-settings editable_mode=compat

.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-memory format chromium clean

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/installed ## Compare the engineer's prompts in the built-in model and record the run
	$(BIN)/neuroscope run experiments/engineer.yaml

test: $(VENV)/installed-test ## Run the whole test suite
	$(BIN)/pytest

check: $(VENV)/installed-test ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make bench PROMPTS=prompts.csv SPEED="--count 500" VOLUME="--sizes 1000 10000" PRECISION=...
WRITE := --write $(if $(PROMPTS),--prompts "$(PROMPTS)")
bench: $(VENV)/installed-bench ## Measure speed, precision and volume, into docs/performance.md
	$(BIN)/python -m benchmarks.speed $(WRITE) $(SPEED)
	$(BIN)/python -m benchmarks.precision $(WRITE) $(PRECISION)
	$(BIN)/python -m benchmarks.volume $(WRITE) $(VOLUME)

# make bench-memory MODEL=folder takes 14.5 GB of disk and half an hour on two cores
MODEL ?= $(or $(NEUROSCOPE_HOME),$(HOME)/.neuroscope)/benchmarks/mistral-shaped
bench-memory: $(VENV)/installed ## Measure streaming a model of 7B parameters, into docs/performance.md
	$(BIN)/python -m benchmarks.larger_than_memory $(MODEL) --write $(MEMORY)

format: $(VENV)/installed-test ## Put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chromium: ## Install the browser of the end-to-end test (Debian and Ubuntu; needs root)
	apt-get update -q && apt-get install -y -q --no-install-recommends chromium

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable '.[test]'
	touch $(VENV)/installed $@

# NeuroX asks for libraries of 2021, yet runs with those of today
$(VENV)/installed-bench: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable '.[bench]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps neurox
	touch $(VENV)/installed $@
