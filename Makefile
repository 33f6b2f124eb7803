# Each target makes its own environment in .venv and works in a fresh clone with nothing but Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# Test workers share the cores: one thread each. Several workers with all threads each are slower than one.
TEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadgroup

.PHONY: demo test test-slow chaos check docs bench clean

demo: $(STAMP)
	@$(VENV)/bin/mmclip demo

test: $(STAMP)
	@$(TEST) -q -m "not slow" tests

test-slow: $(STAMP)
	@$(TEST) -q -m slow tests

# A training run, and one fault after another; --write puts the table into README.md and docs/faults.md.
chaos: $(STAMP)
	@$(VENV)/bin/python tests/faults/chaos.py --seed $(or $(SEED),0) --minutes $(or $(MINUTES),10) --write

check: $(STAMP)
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/pyright
	@$(VENV)/bin/lint-imports --no-cache
	@git ls-files -z | xargs -0 $(VENV)/bin/codespell

# The theme announces its successor at each build; the variable is its own switch for that. Not --quiet: it hides warnings
# from --strict too.
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "build/docs/index.html"

bench: $(STAMP)
	@test -n "$(NAME)" || { echo "which one? make bench NAME=one of: $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py))"; exit 2; }
	@$(VENV)/bin/python benchmarks/$(NAME).py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

# lightly, which tests compare our losses with, demands two frameworks (hydra-core, pytorch-lightning: 14 more packages, and an
# antlr4 that our pins exclude) of which its losses import nothing: so it comes by itself, and pip's `check` says what it lacks.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmclip needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@test -x $(VENV)/bin/python || { echo "making $(VENV) (once; some minutes)"; $(PYTHON) -m venv $(VENV); }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps lightly
	@touch $@
