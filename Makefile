# The two commands of the README: `make demo` and `make test`. Both set up .venv from pinned constraints on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= runs/demo
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test test-studies test-deployment check setup format clean

demo: setup
	$(BIN)/secfed demo --out $(OUT)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What is too long for `make test`, and runs after it in CI.
test-studies: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m study

test-deployment: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -vv --durations=0 --durations-min=5 -m deployment

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
