# Every target sets up .venv by itself, again whenever pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick lint docs gallery notebooks release-check vendored clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/mdjax demo --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" tests/linalg tests/diagnosis tests/report tests/sweeps/test_descriptions.py tests/test_columns.py tests/test_files.py tests/test_table.py

lint: $(VENV)/.installed-test docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

# Any warning is an error, a link or an anchor that leads nowhere is a warning. Needs no network.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-test
	$(BIN)/mkdocs build --strict --quiet

# The pictures of the documentation, from real runs: some minutes.
gallery: $(VENV)/.installed
	$(BIN)/python docs/gallery.py

# The guides that are notebooks as well, run anew: some minutes.
notebooks: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[notebooks]'
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/notebooks.py

# Wheel and sdist, the wheel in an environment with nothing else, and the demo there.
release-check:
	rm -rf dist runs/release
	$(PYTHON) -m venv runs/release/build
	runs/release/build/bin/python -m pip install --quiet --disable-pip-version-check build twine
	runs/release/build/bin/python -m build --outdir dist
	runs/release/build/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv runs/release/empty
	runs/release/empty/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd runs/release && empty/bin/mdjax --version && empty/bin/mdjax demo --out demo && test -s demo/report.html

# The scripts that reports carry, from npm: versions stand in .ci/vendored.
vendored:
	.ci/vendored

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mdjax needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
