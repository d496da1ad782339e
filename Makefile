# One place for everything that is run at the desk and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# by path, or the folder that holds the clone would hide the package of the same name
EDITABLE := --config-settings editable_mode=compat
DOCS := README.md $(wildcard docs/*.md)

.DEFAULT_GOAL := help
.PHONY: help demo test quick test-stack check format docs docs-tables docs-figures docs-stack bench bench-memory validate lock audit engine chromium clean

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/installed ## Compare the engineer prompts in the built-in model and record the run
	$(BIN)/neuroscope run experiments/engineer.yaml

test: $(VENV)/installed-test ## Run the whole test suite
	$(BIN)/pytest

quick: $(VENV)/installed-test ## Run the tests that start no server, no browser and no flow
	$(BIN)/pytest -m "not slow"

test-stack: $(VENV)/installed-test ## Build and use the stack of docker/; needs an engine: DOCKER_HOST=$$(docker/engine)
	$(BIN)/pytest tests/engine

check: $(VENV)/installed-test docs ## Check style, types, imports, dependencies, spelling and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/codespell neuroscope flows tests docs benchmarks experiments *.md *.toml *.yaml Makefile
	$(BIN)/cog --check -P -I . $(DOCS)

format: $(VENV)/installed-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-docs ## Build the documentation site; open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rlE '<(script|link|img|iframe)[^>]*https?://' --include='*.html' build/site # pages load nothing from outside

docs-tables: $(VENV)/installed-test ## Write the tables of the docs that are made from the code
	$(BIN)/cog -r -P -I . $(DOCS)

docs-figures: $(VENV)/installed-test ## Draw the figures of the docs and run their sittings; needs `make chromium`
	$(BIN)/python -m docs.figures
	$(BIN)/python -m docs.sitting

docs-stack: $(VENV)/installed-test ## Take the pictures of the stack on a server; needs an engine
	NEUROSCOPE_PICTURES=$(CURDIR)/docs/images $(BIN)/pytest tests/engine

# make bench PROMPTS=prompts.csv SPEED="--count 500" VOLUME="--sizes 1000 10000" DRIFT=...
WRITE := --write $(if $(PROMPTS),--prompts "$(PROMPTS)")
bench: $(VENV)/installed-bench ## Measure speed, precision and volume, into docs/performance.md
	$(BIN)/python -m benchmarks.speed $(WRITE) $(SPEED)
	$(BIN)/python -m benchmarks.tiles $(WRITE) $(TILES)
	$(BIN)/python -m benchmarks.layers $(WRITE) $(LAYERS)
	$(BIN)/python -m benchmarks.drift $(WRITE) $(DRIFT)
	$(BIN)/python -m benchmarks.precision $(WRITE) $(PRECISION)
	$(BIN)/python -m benchmarks.volume $(WRITE) $(VOLUME)
	$(BIN)/python -m benchmarks.atlas_volume $(WRITE) $(VOLUME)
	$(BIN)/python -m benchmarks.atlas --write
	$(BIN)/python -m benchmarks.interface --write

# make bench-memory MODEL=folder takes 14.5 GB of disk and half an hour on two cores
MODEL ?= $(or $(NEUROSCOPE_HOME),$(HOME)/.neuroscope)/benchmarks/mistral-shaped
bench-memory: $(VENV)/installed ## Measure streaming a model of 7B parameters, into docs/performance.md
	$(BIN)/python -m benchmarks.larger_than_memory $(MODEL) --write $(MEMORY)

# make validate VALIDATE="--only equal --large folder" also compares two files of 14.5 GB
validate: $(VENV)/installed ## Plant changes and check what drift says of them, into docs/validation.md
	$(BIN)/python -m benchmarks.validation --write $(VALIDATE)

# the newest versions that fit together, but this torch: TORCH=torch chooses the newest of it too
TORCH ?= torch==2.13.0
lock: ## Write constraints.txt from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '.[server,test,bench,docs]' $(TORCH)
	$(VENV)-lock/bin/pip install --quiet --no-deps neurox
	{ echo '# The exact set of versions that is tested; made by `make lock`.'; \
	  $(VENV)-lock/bin/pip freeze --exclude neuroscope | sed 's/+cpu$$//'; } > constraints.txt
	rm -rf $(VENV)-lock

audit: $(VENV)/installed ## Look up the dependencies in the list of known vulnerabilities
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

engine: ## Start a container engine for `make test-stack`, and print its address (Debian; needs root)
	@docker/engine

chromium: ## Install the browser of the end-to-end test (Debian and Ubuntu; needs root)
	apt-get update -q && apt-get install -y -q --no-install-recommends chromium

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable '.[test]'
	touch $(VENV)/installed $@

$(VENV)/installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable '.[docs]'
	touch $(VENV)/installed $@

# NeuroX asks for libraries of 2021, yet runs with those of today
$(VENV)/installed-bench: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) --editable '.[bench]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps neurox
	touch $(VENV)/installed $@
