# Every target works in a fresh clone: it finds a Python, makes the virtual environment it needs and
# fills it with the versions locked in constraints/. Override the search with PYTHON= (3.10, for
# Lava) and CORE_PYTHON= (3.11 or later).

PYTHON ?=
CORE_PYTHON ?=
# Test processes at a time; a test file runs in one of them.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
VENV := .venv
CORE_VENV := .venv-core

.DEFAULT_GOAL := help
.PHONY: help demo test test-core lint format install install-core lock clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install ## Train, compile, verify and price a small network on handwritten digits
	@$(VENV)/bin/lapilli demo

test: lint ## Lint and run every test with Lava (Python 3.10, .venv)
	@LAPILLI_BACKENDS=reference,lava $(VENV)/bin/pytest -n $(JOBS) --dist loadfile

test-core: install-core ## Run every test that needs no Lava on the newest stack (.venv-core)
	@LAPILLI_BACKENDS=reference $(CORE_VENV)/bin/pytest -n $(JOBS) --dist loadfile

lint: install ## Check style and formatting
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

format: install ## Repair style and formatting where ruff can
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

install: ## Make or update .venv: Python 3.10 with Lava
	@PYTHON='$(PYTHON)' .ci/install $(VENV) constraints/lava.txt lava,dev 3.10

install-core: ## Make or update .venv-core: Python 3.11 or later, no Lava
	@PYTHON='$(CORE_PYTHON)' .ci/install $(CORE_VENV) constraints/core.txt dev 3.11 3.12 3.13

lock: install install-core ## Rewrite constraints/ from the two environments
	@.ci/lock $(VENV) constraints/lava.txt
	@.ci/lock $(CORE_VENV) constraints/core.txt

clean: ## Remove caches and build products
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name .venv\* -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environments as well
	@rm -rf $(VENV) $(CORE_VENV)
