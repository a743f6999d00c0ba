# make hotflip: from an empty machine to the paper's table.    make test: the test suite; make
# test-slow and make slurm-test: what takes longer, or needs more.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := src
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: hotflip test test-slow check bench docs ui screenshots server clean audit-packages slurm-test

hotflip: .venv/installed
	mlflow run . -e hotflip --env-manager local --experiment-name monotone

test: check
	python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: .venv/tested
	python -m pytest -q -n 2 --dist loadfile -m slow \
	  --jaxtyping-packages=papertrail,beartype.beartype

check: .venv/tested
	ruff format --check .
	ruff check .
	mypy

bench: .venv/tested
	pip install -q --no-deps nanogcg==0.3.0
	for file in benchmarks/*.py; do echo "== $$file"; TQDM_DISABLE=1 python $$file || exit 1; done

audit-packages: .venv/tested
	python .ci/audit_packages.py

docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "build/site/index.html; mkdocs serve shows it with its search"

# Installs Debian's SLURM, starts one under /tmp on free ports, runs the launcher's tests, stops it.
slurm-test: .venv/tested
	export PATH="$$PATH:/usr/sbin"; for name in slurmctld slurmd sbatch munged; do \
	  command -v $$name >/dev/null || missing=1; done; \
	if [ "$$missing" ]; then sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -qq && \
	  $$sudo apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; fi; \
	PAPERTRAIL_SLURM_TESTS=1 OMP_NUM_THREADS=1 \
	  python -m pytest -q --durations=10 tests/test_slurm.py tests/test_slurm_cluster.py

ui: .venv/installed
	mlflow ui --backend-store-uri sqlite:///mlflow.db

screenshots: .venv/tested
	PYTHONPATH=src:tests python tests/screenshots.py

server: .venv/served
	python entrypoints/server.py

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "papertrail needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	pip install -q -r requirements.txt
	pip install -q --no-deps -e .
	touch $@

.venv/served: .venv/installed requirements-server.txt
	pip install -q -r requirements-server.txt
	touch $@

.venv/tested: .venv/installed requirements-dev.txt requirements-docs.txt requirements-server.txt
	pip install -q -r requirements-dev.txt -r requirements-docs.txt -r requirements-server.txt
	touch $@

.venv/documented: .venv/installed requirements-docs.txt
	pip install -q -r requirements-docs.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
