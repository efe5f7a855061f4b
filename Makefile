# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
#
#   make demo    install locked versions, then run the main job on invented data: ./demo
#   make test    install, then lint, type-check and test, in WORKERS (2) processes
#   make lock    resolve the newest versions that pyproject.toml allows into requirements.lock
#   make clean   remove .venv and whatever the commands above wrote

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
CHECKED := src tests benchmarks examples

.PHONY: demo test setup lock clean

demo: $(STAMP)
	$(BIN)/coterie demo --out demo --overwrite

test: $(STAMP)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coterie needs Python 3.11 or newer, got " + sys.version.split()[0] + "; choose one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet $(TORCH)
	.venv-lock/bin/python -m pip install --quiet hatchling editables
	.venv-lock/bin/python -m pip install --quiet --group dev '.[download,experiment,export,ials,mechanisms,pandas,serve,tensorboard,tune]'
	( sed -n '/^#/p' requirements.lock; \
	  .venv-lock/bin/python -m pip freeze --exclude coterie --exclude pip --exclude setuptools \
	  | grep -vE '^(#|-e |nvidia|triton|cuda)' \
	  | sed -E 's/^(torch==[0-9.]+).*/\1  # `make` installs it first, so that nothing else picks its variant/' \
	) > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
