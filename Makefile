# Needs python3 (3.11 or newer) with pip. Everything else is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := storage rewards pipeline trainer jobs
DEMO_ARGS ?=
TEST_ARGS ?=
# As many tests at a time. Those of a file stay together: they share what its fixtures made.
TEST_WORKERS ?= 2
PYTEST = $(BIN)/pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

# Named after the contents that decide an installation: a new pin reinstalls, a checkout that touches times does not.
KEY := $(shell cat pyproject.toml constraints.txt requirements-pytorch3d.txt | cksum | tr ' ' '-')
INSTALLED := $(VENV)/.installed-$(KEY)

.PHONY: help install demo test test-long test-all browser quality format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     the whole loop on the embedded world, ends with a table and a report"
	@echo "make test     the tests, but for the long ones: minutes on two cores"
	@echo "make test-all every test; make test-long: only those that make test leaves out"
	@echo "make browser  Chromium for the tests of the report: needs apt-get (Debian, Ubuntu) and root, or one on the PATH"
	@echo "make quality  formatting, lint, strict types, import directions"
	@echo "make format   rewrite the sources as quality wants them"
	@echo "make install  only create .venv and install"
	@echo "make clean    remove .venv and caches (runs are kept)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt requirements-pytorch3d.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11: run make PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --no-deps depth-anything-3
	$(BIN)/pip install --disable-pip-version-check --quiet --no-compile --no-deps --require-hashes --requirement requirements-pytorch3d.txt
	@# pip would compile these 320 MB of sources on one core. A package may hold files of another Python: they are left.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(INSTALLED)
	$(BIN)/gpa demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(PYTEST) -m 'not long' $(TEST_ARGS)

test-long: $(INSTALLED)
	$(PYTEST) -m long $(TEST_ARGS)

test-all: $(INSTALLED)
	$(PYTEST) $(TEST_ARGS)

# A Chromium on the PATH, or $GPA_CHROMIUM, is used as it is. Without one, tests of the page are skipped.
browser: $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[browser]'
	@test -n "$$GPA_CHROMIUM" || command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 || { \
	    echo "error: no Chromium, and apt-get as root is what could install one: put a chromium on the PATH, or set GPA_CHROMIUM" >&2; \
	    exit 1; }; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

quality: $(INSTALLED)
	$(BIN)/ruff format --check $(PACKAGES) tests
	$(BIN)/ruff check $(PACKAGES) tests
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_import_direction.py

format: $(INSTALLED)
	$(BIN)/ruff format $(PACKAGES) tests
	$(BIN)/ruff check --fix $(PACKAGES) tests

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
