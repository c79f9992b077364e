# The two commands of the README, and what continuous integration adds. Every target sets up .venv first.
PYTHON_BIN = .venv/bin/python
# A file's tests stay with one worker, so that what a module sets up is made once; files in their own order, since the
# long ones (whole commands, simulations) come before the many short ones, which then even out the workers.
PYTEST = $(PYTHON_BIN) -m pytest -n auto --dist=loadfile --no-loadscope-reorder --durations=15

.PHONY: setup demo test test-slow lint types

setup:
	@bash scripts/setup.sh

demo: setup
	@$(PYTHON_BIN) -m eval.demo $(ARGS)

test: setup
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup
	@$(PYTEST) -m slow $(ARGS)

lint: setup
	@$(PYTHON_BIN) -m ruff check .
	@$(PYTHON_BIN) -m ruff format --check .

types: setup
	@$(PYTHON_BIN) -m pyrefly check
