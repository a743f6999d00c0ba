# make hotflip: from an empty machine to the paper's table.    make test: the whole test suite.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := src
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: hotflip test check bench ui clean

hotflip: .venv/installed
	mlflow run . -e hotflip --env-manager local --experiment-name monotone

test: check
	python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/tested
	ruff format --check .
	ruff check .
	mypy

bench: .venv/tested
	pip install -q --no-deps nanogcg==0.3.0
	for file in benchmarks/*.py; do echo "== $$file"; TQDM_DISABLE=1 python $$file || exit 1; done

ui: .venv/installed
	mlflow ui --backend-store-uri sqlite:///mlflow.db

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "papertrail needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	pip install -q -r requirements.txt
	pip install -q --no-deps -e .
	touch $@

.venv/tested: .venv/installed requirements-dev.txt
	pip install -q -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
