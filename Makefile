# Everything happens in .venv (or .venv-3.13, say), made from the pinned requirements; a stamp tells when there is nothing to do.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The first version of Python that is used has .venv; each other one has a place of its own, so that both stay.
VERSION_OF = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VERSION := $(call VERSION_OF,$(PYTHON))
VENV := .venv$(if $(filter-out $(VERSION),$(call VERSION_OF,.venv/bin/python)),-$(VERSION))
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo serve engine test test-versions test-version test-part set-up set-up-versions soak check lint types analyzer check-engine \
	check-address check-thread format bench lock clean

# TENANTRY_BACKEND=postgres runs the same demo in a PostgreSQL server that it starts itself.
demo: $(VENV)/.runtime $(if $(filter postgres,$(TENANTRY_BACKEND)),$(VENV)/.postgres) ## set everything up and run the main job
	$(BIN)/tenantry demo

# The service's own place: its data, and its first key.
SERVICE := .tenantry
PORT ?= 8321

serve: $(VENV)/.runtime $(SERVICE)/admin.key ## run the service; the key is in .tenantry/admin.key
	@echo "the console is at http://127.0.0.1:$(PORT)/console/, the key to it in $(SERVICE)/admin.key"
	@exec $(BIN)/tenantry serve --data-dir $(SERVICE)/data --port $(PORT)

# Without the data that it was made for, no service knows a key.
ifeq ($(wildcard $(SERVICE)/data/catalog.db),)
.PHONY: $(SERVICE)/admin.key
endif

# Its owner's alone, and there whole or not at all.
$(SERVICE)/admin.key: | $(VENV)/.runtime
	@umask 077 && mkdir -p $(SERVICE) \
		&& $(BIN)/tenantry key create --data-dir $(SERVICE)/data --scope admin --name "make serve" --quiet > $@.new \
		&& mv $@.new $@

# A file's tests stay together: what they share, such as a service under load, is made once. Two processes more than there are
# processors, because tests wait for other processes (on 2 processors: 364 s with 4 processes, 448 s with 3).
TEST_PROCESSES ?= $(shell expr `nproc` + 2)

# The processes that tests start would compile each module again.
unexport PYTHONDONTWRITEBYTECODE

test: $(VENV)/.dev ## the whole suite with branch coverage
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(VENV)/.dev ## the tests that run for minutes; they print their seeds and figures
	$(BIN)/python -m pytest -m soak --capture=no -o faulthandler_timeout=0 $(SOAK)
	$(if $(SOAK),,$(BIN)/python tests/engine/sanitizers.py address -m soak --capture=no -o faulthandler_timeout=0 tests/storage/sqlite/engine)

# Those that Python's version makes a difference to: the event loop, threads and the driver, and the README's example with -W error.
PART := $(wildcard tests/test_*.py) $(addprefix tests/,files schemas server sql storage/archive storage/sqlite storage/test_standalone.py tenancy/actors testing) \
	$(addprefix tests/,company/test_models.py company/test_timestamps.py tenancy/fleet/test_job.py tenancy/test_registry.py tenancy/test_registry_reports.py tenancy/test_registry_transactions.py) \
	$(addprefix tests/,system/test_cancellation.py system/test_documentation.py observability/test_logging.py observability/test_metrics.py) \
	$(addprefix tests/storage/postgres/,test_conformance.py test_pipeline.py test_pool.py) tests/cli/test_output.py

# Of those, the ones that differ with the engine: what runs on one thread or another, and in which order.
STATEMENTS := $(addprefix tests/,storage/sqlite storage/test_standalone.py tenancy/actors testing system/test_cancellation.py) \
	$(addprefix tests/tenancy/,test_registry.py test_registry_reports.py test_registry_transactions.py)

test-part: $(VENV)/.dev ## the tests that depend most on Python's version
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PART)

# Runs a goal with each other version of Python that is found. Of pyenv's only those that a shim leads to can be called by name.
define with_other_versions
@+for version in 3.11 3.12 3.13; do \
	for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
		if [ $$version != "$(VERSION)" ] && "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
			$(MAKE) $(1) PYTHON="$$python" || exit 1; \
			break; \
		fi; \
	done; \
done
endef

# One version runs the tests of statements on Python's sqlite3: `make test` runs only the short suites of the engine on both.
test-versions: $(VENV)/.dev ## the same with each other version of Python that is found
	$(call with_other_versions,test-version)

test-version:
	@$(if $(filter 3.12,$(VERSION)),TENANTRY_ENGINE=python) $(MAKE) --no-print-directory test-part \
		$(if $(filter 3.12,$(VERSION)),PART="$(STATEMENTS)")

set-up-versions: $(VENV)/.dev ## the environments of those versions
	$(call with_other_versions,set-up)

# To collect the tests compiles their modules; otherwise each process of `make test` would.
set-up: $(VENV)/.dev ## the environment, with the tests compiled
	@collected=$$($(BIN)/python -m pytest --collect-only --quiet) || { echo "$$collected"; exit 1; }

# The parts can run side by side: make --jobs=2 check.
check: lint types analyzer check-engine ## lint, format, types, and the engine's C code: gcc's warnings, analyzer and sanitizers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

analyzer: $(VENV)/.dev
	TENANTRY_ENGINE_STRICT=1 CFLAGS=-fanalyzer $(BIN)/python setup.py --quiet build_ext --force --build-lib build/strict --build-temp build/strict

check-engine: check-address check-thread ## tests of the engine under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer

check-address check-thread: check-%: $(VENV)/.dev
	$(BIN)/python tests/engine/sanitizers.py $*

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## the peers side by side; takes some minutes
	$(BIN)/python -m benchmarks

lock: $(VENV)/.dev ## pin anew, with hashes and without an index
	rm -f requirements/*.txt
	$(BIN)/uv pip compile $(LOCK) --extra service pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile $(LOCK) --group build -o requirements/build.txt
	$(BIN)/uv pip compile $(LOCK) --extra service pyproject.toml -c requirements/runtime.txt -c requirements/build.txt \
		--group dev -o requirements/dev.txt
	$(BIN)/uv pip compile $(LOCK) --extra postgres pyproject.toml -c requirements/dev.txt --group demo -o requirements/postgres.txt
	$(BIN)/uv pip compile $(LOCK) --extra service pyproject.toml -c requirements/dev.txt --group bench -o requirements/bench.txt
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

clean:
	rm -f $(ENGINE)/*.so $(ENGINE)/not_built.*.txt
	rm -rf src/*.egg-info
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tenantry needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.packages: requirements/runtime.txt requirements/build.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/runtime.txt
	$(INSTALL) --require-hashes --no-deps -r requirements/build.txt
	touch $@

# The project itself is installed editable: a change to Python code needs no new set-up, a change to C code builds the engine anew.
ENGINE := src/tenantry/storage/sqlite/engine
NOT_BUILT = $(ENGINE)/not_built.$(shell $(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)').txt

$(VENV)/.runtime: pyproject.toml setup.py $(wildcard $(ENGINE)/*.c $(ENGINE)/*.h) $(VENV)/.packages
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@if [ -e $(NOT_BUILT) ]; then \
		echo "the engine is not built, so Python's sqlite3 runs the statements: $$(cat $(NOT_BUILT)); after installing that: make engine"; \
	fi
	touch $@

engine: ## build the engine anew, for example after a compiler was installed
	@rm -f $(VENV)/.runtime
	@$(MAKE) --no-print-directory $(VENV)/.runtime

$(VENV)/.postgres: requirements/postgres.txt | $(VENV)/.runtime
	$(INSTALL) --require-hashes -r requirements/postgres.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.packages | $(VENV)/.runtime
	$(INSTALL) --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	$(INSTALL) --require-hashes -r requirements/bench.txt
	touch $@

.PHONY: bench-guard
bench-guard: $(VENV)/.bench ## ratios against the peers in the same run; fails on a regression
	$(BIN)/python -m benchmarks.guard
