# The commands of this project. Each makes .venv first if it is missing or out of date.
PYTHON ?= python3
PROMPT ?= 一只红色的狐狸
BIN := .venv/bin
.PHONY: demo test test-gpu lint format mini score score-distill adapters clean

demo: .venv/run
	$(BIN)/danqing generate "$(PROMPT)" --out outputs

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-gpu: .venv/dev
	$(BIN)/python -m pytest -q -m gpu

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All stages of recipes/mini; hours on a CPU. MINUTES=30 ends each training stage after so long.
# Large freed blocks stay with the process: giving them back and taking them anew halves the speed.
mini: export MALLOC_MMAP_THRESHOLD_ = 4294967296
mini: export MALLOC_TRIM_THRESHOLD_ = 17179869184
mini: .venv/dev
	$(BIN)/python -m recipes.mini $(if $(MINUTES),--minutes $(MINUTES))

score: .venv/dev
	$(BIN)/python -m recipes.mini fetch data judge reader score $(if $(MINUTES),--minutes $(MINUTES))

score-distill: .venv/dev
	$(BIN)/python -m recipes.mini fetch data judge reader score_distill

# The example adapters: data, trainings, judges, score and pictures; 40 minutes on two CPU cores.
adapters: .venv/dev
	$(BIN)/python -m recipes.adapters

clean:
	rm -rf .venv outputs build dist

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "danqing needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,recipe,train]"
	@touch $@ .venv/run
