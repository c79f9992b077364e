# The two commands of the README, and what continuous integration adds. Every target sets up .venv first.
PYTHON_BIN = .venv/bin/python

.PHONY: setup demo test test-slow lint types

setup:
	@bash scripts/setup.sh

demo: setup
	@$(PYTHON_BIN) -m eval.demo $(ARGS)

test: setup
	@$(PYTHON_BIN) -m pytest -m "not slow" $(ARGS)

test-slow: setup
	@$(PYTHON_BIN) -m pytest -m slow $(ARGS)

lint: setup
	@$(PYTHON_BIN) -m ruff check .
	@$(PYTHON_BIN) -m ruff format --check .

types: setup
	@$(PYTHON_BIN) -m pyrefly check
