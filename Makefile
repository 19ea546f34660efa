# `make test`, `make demo` and `make demo-collab` set up everything they need in .venv, from nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/gittheta-*)
READY := $(VENV)/.ready
READY_FOR_SLOW := $(VENV)/.ready-for-slow
NEWER_GIT := .services/git

.PHONY: test lint types contracts pytest test-pythons slow soak services newer-git bench man demo demo-collab setup clean

test: lint types contracts pytest test-pythons

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

pytest: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n auto --dist worksteal -m "not slow"

# Without torch, on every other Python from 3.12 up that this machine has.
test-pythons: $(READY)
	$(BIN)/python -m tests.other_pythons

slow: $(READY_FOR_SLOW)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n auto --dist worksteal -m "slow and not soak"
	@if test -x $(NEWER_GIT)/bin/git; then $(MAKE) newer-git; else echo "skipped: a newer Git; make services builds it"; fi

# More seeds of the fuzz and of the torture: an hour.
soak: $(READY_FOR_SLOW)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n auto --dist worksteal -m soak

# What tests need that pip cannot install: a Git with hooks by configuration. Needs Debian, as root.
services:
	tests/services/openssh.sh
	tests/services/newer-git.sh $(NEWER_GIT)

# All tests that drive Git, with the newer one.
newer-git: $(READY_FOR_SLOW) services
	PATH="$(CURDIR)/$(BIN):$$PATH" GITTHETA_TEST_GIT="$(CURDIR)/$(NEWER_GIT)/bin" \
		$(BIN)/pytest -n auto --dist worksteal -m "not slow" tests/git
	PATH="$(CURDIR)/$(BIN):$$PATH" GITTHETA_TEST_GIT="$(CURDIR)/$(NEWER_GIT)/bin" \
		$(BIN)/pytest -n auto --dist worksteal -m slow tests/git/setup

bench: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.bench

man: $(READY)
	$(BIN)/python docs/man/generate.py

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/demo/digits.py

demo-collab: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/demo/collab.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt $(PLUGINS:=/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gittheta needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]' $(PLUGINS:%=--editable ./%)
	touch $@

$(READY_FOR_SLOW): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[slow]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-* build dist bench-results
