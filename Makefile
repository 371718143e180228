# Two commands on a clean clone: `make study` shows a collapse, `make test` runs the whole test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: study test check slow clean

study: $(VENV)/.installed
	$(BIN)/lesion study $(ARGS)

test: $(VENV)/.tested
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile $(ARGS)

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: `constraints.txt` names the version, and pip takes a CPU build of it where one is at hand.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache
