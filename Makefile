# Two commands on a clean clone: `make study` shows a collapse, `make test` runs the whole test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: study test check slow docs clean

study: $(VENV)/.installed
	$(BIN)/lesion study $(ARGS)

test: $(VENV)/.tested
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile $(ARGS)

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# A warning is an error: a link that leads nowhere, a docstring that cannot be read.
docs: $(VENV)/.tested
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

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
	rm -rf $(VENV) build docs/_build .pytest_cache .ruff_cache
