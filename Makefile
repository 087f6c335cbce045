# Habits of development. `make setup` once, then check and test before every commit.
.PHONY: setup check test fix serve demo

PYTHON := .venv/bin/python

setup:
	bash -c '. scripts/lib/env.sh && ensure_env train,dev'
	$(PYTHON) -m pre_commit install

check:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test:
	scripts/test_all.sh

fix:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

serve:
	$(PYTHON) -m realm up --foreground

demo:
	scripts/start_all.sh
	$(PYTHON) -m realm quest make bin --level 1 --follow
	$(PYTHON) -m realm status
