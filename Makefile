# `make help` lists the targets.
PYTHON ?= python3
ROWS ?= 1000000
STEPS ?= 10000
SECONDS ?= 600
# Two more than the cores of a small machine, since some tests wait. Who has nothing left takes over
# from the others, and neighbours stay together with what they share.
PARALLEL ?= -n 4 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

# The embedded PostgreSQL speaks English only; Debian's comes with the translations.
TRANSLATED := $(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin)))

.PHONY: help demo test test-german soak matrix wheel suites site lint bench clean
.DEFAULT_GOAL := help

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Rehearse the rotation of ROWS tickets (1000000) under live traffic, and give a verdict
	@$(BIN)/python manage.py playbook rehearse --rows $(ROWS) --seconds 5 --report reports/rehearsal

test: $(STAMP) ## Run the tests (one file, or options: make test ARGS="tests/tickets/test_seed.py -x")
	@$(BIN)/python -m pytest $(if $(DATABASE_URL),,$(PARALLEL)) $(ARGS)

test-german: $(STAMP) ## Run the tests on a server that speaks German: Debian's, from apt-get install postgresql
ifeq ($(TRANSLATED),)
	@echo 'Skipped: there is no PostgreSQL that speaks German in /usr/lib/postgresql (apt-get install postgresql).'
else
	@TEST_POSTGRES_BIN=$(TRANSLATED) TEST_POSTGRES_LANGUAGE=de $(BIN)/python -m pytest $(PARALLEL) $(ARGS)
endif

soak: $(STAMP) ## Look for faults at length: STEPS steps of random histories (10000), SECONDS of kills (600)
	@$(BIN)/python -m tests.soak.histories $(STEPS)
	@$(BIN)/python -m tests.soak.conversions $(STEPS)
	@$(BIN)/python -m tests.soak.kills $(SECONDS)

matrix: $(STAMP) ## Run the tests on other versions of Python, Django and PostgreSQL (ARGS="-l" lists them)
	@$(BIN)/nox $(ARGS)

wheel: $(STAMP) ## Build the package, install it alone, and play the tutorial with it
	@$(BIN)/python -m tests.wheel

site: $(STAMP) ## Build the documentation as a site, build/site/index.html; a broken link is an error
	@$(BIN)/sphinx-build --quiet --nitpicky --fail-on-warning --keep-going -b html -c docs . build/site
	@echo 'Written: build/site/index.html'

suites: $(STAMP) ## Fetch django-oauth-toolkit's own tests, and run them beside our triggers
	@$(BIN)/python -m tests.suites

lint: $(STAMP) ## Check style, formatting, types, and that no import runs up
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## Measure; see tests/benchmarks/
	@$(BIN)/python -m tests.benchmarks --rows $(ROWS) $(ARGS)

clean: ## Remove the environment, the caches, the reports and the embedded database
	@rm -rf $(VENV) .postgres build reports .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependency groups need pip 25.1, newer than the one that some Pythons bring. Nothing is compiled,
# which takes as long as the rest: Python does so with what it imports. The umask lets the user that
# root's embedded PostgreSQL runs as read its programs.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo '$(PYTHON) is missing or older than Python 3.11: name a newer one with "make PYTHON=python3.13".' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) has no venv module: install it (on Debian: apt-get install python3-venv).' >&2; exit 1; }
	@echo 'Building $(VENV) from requirements.txt and the dev group of pyproject.toml ...'
	@umask 022; $(PYTHON) -m venv --clear $(VENV)
	@umask 022; $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade 'pip>=25.1'
	@umask 022; $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt --group dev
	@touch $@
