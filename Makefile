# Everything runs from a virtual environment inside the checkout, made on first use.
#
#   make test INSTALL=wheel    tests the built wheel, in a separate environment
#   make test ARGS="-k retry"  passes arguments to pytest or to a script
#   make test WORKERS=8        runs eight tests at once; 0 runs them in one process
#   make demo PYTHON=python3.12
#   make demo LOG=INFO         also shows Prefect's log

PYTHON ?= python3
INSTALL ?= checkout
ARGS ?=
LOG ?= CRITICAL
# Tests mostly wait for servers and processes, so even two cores take four at once.
WORKERS ?= 4
# Tests start hundreds of processes. Without a cache each of them compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

SOURCES := $(shell find src -name '*.py' -o -path '*/assets/*' -o -name 'py.typed') \
           $(wildcard collector/*) examples/nyc_flights.py pyproject.toml README.md LICENSE
VERSION := $(shell sed -n 's/^__version__.*"\(.*\)"$$/\1/p' src/flowspan/_version.py)
WHEEL := dist/flowspan-$(VERSION)-py3-none-any.whl

ifeq ($(INSTALL),wheel)
VENV := .venvs/wheel
PACKAGE := $(WHEEL)[demo]
else
VENV := .venv
PACKAGE := --editable=.[demo]
endif
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Prefect 3.9 needs Python 3.11, so 3.10 has its own pins.
CONSTRAINTS := constraints$(shell $(PYTHON) -c 'import sys; print("-3.10" * (sys.version_info < (3, 11)))' 2> /dev/null).txt
RESOLVE = $(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate \
          --extra demo --extra trends --group dev pyproject.toml build/tools.txt

.PHONY: help demo test test-all docs lost browser screenshot e2e e2e-all programs lint bench bench-logs bench-timeline bench-watch load runners matrix matrix-all wheel constraints clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Trace a real flow, print its timeline and its metrics
	@$(BIN)/flowspan demo --log $(LOG)

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)
	@echo "Not run here: tests/e2e, with the real Collector and backends: make e2e;"
	@echo "              tests/browser, with a real Chromium: make browser;"
	@echo "              tests/lost, where runs are killed under a worker: make lost;"
	@echo "              tests/runners, with Dask, Ray and a worker: make runners"

test-all: $(READY)  ## Run the tests with longer searches
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --all $(ARGS)

browser: $(READY)  ## Test the HTML page in the system's Chromium
	$(BIN)/python -m pytest tests/browser $(ARGS)

screenshot: $(READY)  ## Take the screenshot for README.md and docs/ of the page that make demo writes
	$(BIN)/python scripts/screenshot.py .flowspan/report.html docs/timeline.png

e2e: $(READY) programs  ## Test the Collector's configuration with the real programs
	$(BIN)/python -m pytest tests/e2e -n 2 --dist loadgroup $(ARGS)

e2e-all: $(READY) programs  ## The same, with every subset of the Collector's layers
	$(BIN)/python -m pytest tests/e2e -n 2 --dist loadgroup --all $(ARGS)

programs: $(READY)  ## Build the Collector, Jaeger, Prometheus and VictoriaLogs for e2e, if missing
	$(BIN)/python scripts/programs.py

docs: $(READY)  ## Build the documentation into build/docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo "Open build/docs/index.html"

lint: $(READY)  ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)  ## Measure what flowspan costs
	$(BIN)/python scripts/bench.py $(ARGS)

bench-logs: $(READY)  ## Measure what a log call costs
	$(BIN)/python scripts/bench_logs.py $(ARGS)

bench-timeline: $(READY)  ## Measure how long large traces take
	$(BIN)/python scripts/bench_timeline.py $(ARGS)

bench-watch: $(READY)  ## Measure flowspan watch with thousands of flow runs
	$(BIN)/python scripts/bench_watch.py $(ARGS)

load: $(READY) programs  ## Measure how much load the Collector can handle
	$(BIN)/python scripts/load.py $(ARGS)

lost: $(READY)  ## Test runs that are killed and cancelled under a real worker
	$(BIN)/python -m pytest tests/lost $(ARGS)

runners: $(READY) $(WHEEL)  ## Test the wheel with Dask, Ray, a worker and a served deployment
	$(BIN)/python scripts/matrix.py --wheel $(WHEEL) --runners --timeout 3600 $(ARGS)

matrix: $(READY) $(WHEEL)  ## Test the wheel on every supported Prefect minor and Python
	$(BIN)/python scripts/matrix.py --wheel $(WHEEL) $(ARGS)

matrix-all: $(READY) $(WHEEL)  ## The same with more tests, and also on the main Prefect
	$(BIN)/python scripts/matrix.py --wheel $(WHEEL) --all $(ARGS)

wheel: $(WHEEL)  ## Build the wheel, by way of the source distribution

constraints: $(READY)  ## Resolve the constraints again: for Python 3.10, for newer ones, with Dask and Ray
	@mkdir -p build
	@# Prefect before 3.9 fails at import with newer versions of FastAPI.
	echo 'fastapi>=0.139,<0.151' > build/caps.txt
	echo pip > build/tools.txt
	$(RESOLVE) --python-version 3.10 --constraint build/caps.txt --output-file build/3.10.txt
	$(RESOLVE) --python-version 3.11 --output-file build/lowest.txt
	$(RESOLVE) --python-version 3.14 --constraint build/lowest.txt --output-file build/highest.txt
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 \
	    --extra demo --group runners pyproject.toml --output-file constraints-runners.txt
	LC_ALL=C sort -u build/3.10.txt > constraints-3.10.txt
	LC_ALL=C sort -u build/lowest.txt build/highest.txt > constraints.txt

clean:  ## Remove everything that was made, including environments and traces
	rm -rf .venv .venvs .flowspan build dist .coverage coverage.xml \
	    .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { \
	    echo "No '$(PYTHON)' found: install Python 3.10 or newer, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "flowspan needs Python 3.10 or newer, and '$(PYTHON)' is" \
	        "$$($(PYTHON) -V 2>&1). Name another: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "'$(PYTHON)' cannot create virtual environments." \
	        "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(READY): $(BIN)/python pyproject.toml $(CONSTRAINTS) $(if $(filter wheel,$(INSTALL)),$(WHEEL))
	@echo "Setting up $(VENV) with $$($(BIN)/python -V), once ..."
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@# Only pip 25.1 and newer knows --group.
	@$(BIN)/python -m pip install --quiet --upgrade --constraint $(CONSTRAINTS) pip
	@# pip does not replace an installed wheel of the same version, even if it was rebuilt.
	@$(BIN)/python -m pip uninstall --quiet --yes flowspan 2> /dev/null
	@$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) \
	    --build-constraint $(CONSTRAINTS) --group dev "$(PACKAGE)"
	@touch $@

$(WHEEL): $(SOURCES)
	@$(MAKE) --silent --no-print-directory INSTALL=checkout .venv/.ready
	@rm -f dist/flowspan-*
	@mkdir -p build
	@.venv/bin/python -m build --no-isolation . > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@touch $(WHEEL)
	@echo "Built $(WHEEL)"
