# `make` explains itself. Every target first sets up what it needs, in .venv.

PYTHON ?= python3
ARGS ?=
SWEEP ?= mn
BUDGET ?= paper

BIN := .venv/bin
STAMP := .venv/.installed
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup demo experiment-4b experiment-5d experiment-6d experiment-conversion sweep readme paper \
  tables table-4b table-5d table-6d \
  figures figure-1 figure-2 figure-3 figure-4a figure-5 figure-6 \
  data-ucf101 data-fibsem data-ibsr data-sample docs test lint format clean

help: ## Show this help
	@echo 'make TARGET [ARGS="..."] [PYTHON=python3.12]'
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { \
	  if (length($$1) > 12) {print "  " $$1; $$1 = ""} printf "  %-12s %s\n", $$1, $$2}' \
	  $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Make .venv with PYTHON and install everything there (again when pyproject.toml changes)

demo: $(STAMP) ## Train 3D against P2SC2 on synthetic volumes, brains and films, and compare (ARGS: to train.py)
	$(BIN)/python scripts/paper.py run table-6d table-5d table-4b --protocol demo --at-once 2 --output runs/demo $(ARGS)
	for table in 6d 5d 4b; do $(BIN)/python scripts/compare.py runs/demo/table-$$table-demo || exit; done

experiment-4b experiment-5d experiment-6d: $(STAMP) ## Run what that table lacks and collect the records (BUDGET=paper; ARGS)
	$(BIN)/python scripts/paper.py run table-$(@:experiment-%=%) --protocol $(BUDGET) $(ARGS)

experiment-conversion: $(STAMP) ## Convert a trained U-Net and train on from several starts (ARGS="--seed 1")
	$(BIN)/python experiments/conversion/study.py $(ARGS)
	$(BIN)/python experiments/conversion/study.py --report

sweep: $(STAMP) ## Train a whole sweep, several runs at once, and summarise it (SWEEP=grid; ARGS: to train.py)
	$(BIN)/python train.py --multirun sweep=$(SWEEP) hydra/launcher=local \
	  output_directory=runs/$(SWEEP) $(ARGS)
	$(BIN)/python scripts/compare.py runs/$(SWEEP)

readme: $(STAMP) ## Write the tables and pictures of README and docs anew, from the records and the networks
	$(BIN)/python scripts/account.py table=true into=docs/networks.md
	$(BIN)/python scripts/paper.py readme

paper: $(STAMP) ## Tables, figures and one page with all of it: build/paper/index.html, without a GPU
	$(BIN)/python scripts/paper.py all

tables: $(STAMP) ## Put the paper's tables beside our records, into build/paper/tables
	$(BIN)/python scripts/paper.py tables

table-4b table-5d table-6d: $(STAMP) ## The same of one table: video, brain MRI, electron microscopy
	$(BIN)/python scripts/paper.py tables $@

figures: $(STAMP) ## Draw the paper's figures as PDF and PNG, into build/paper/figures
	$(BIN)/python scripts/paper.py figures

figure-1 figure-2 figure-3 figure-4a figure-5 figure-6: $(STAMP) ## The same of one figure
	$(BIN)/python scripts/paper.py figures $@

data-ucf101: $(STAMP) ## Download UCF101, 6.5 GB, and prepare it for training (64 GB)
	$(BIN)/python scripts/data.py ucf101 $(ARGS)

data-fibsem: $(STAMP) ## Download the FIB-25 volumes
	$(BIN)/python scripts/data.py fibsem $(ARGS)

data-ibsr: $(STAMP) ## Verify IBSR, which you fetch at NITRC, and put it in place (ARGS: the archive)
	$(BIN)/python scripts/data.py ibsr $(ARGS)

data-sample: $(STAMP) ## Download one FIB-25 volume and cut it as the reduced records have it
	$(BIN)/python scripts/data.py sample $(ARGS)

docs: $(STAMP) ## Build the documentation site: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(STAMP) ## Run the tests, a process of one thread on each core (ARGS: to pytest, e.g. ARGS="-k unet")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(STAMP) ## Check style, format and types
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

format: $(STAMP) ## Format the code and mend what can be mended automatically
	$(BIN)/python -m ruff check --fix-only
	$(BIN)/python -m ruff format

clean: ## Delete caches and build files; runs, data and .venv stay
	rm -rf build dist psc.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . \( -path ./.git -o -path ./.venv -o -path ./runs -o -path ./data \) -prune \
	  -o -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted installation is taken up again; a .venv that cannot
# be used (half made, or of a Python that is gone or too old) is made anew.
$(STAMP): pyproject.toml
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || { \
	  $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	    echo 'Name one that is: make setup PYTHON=python3.12' >&2; \
	    exit 1; \
	  }; \
	  echo 'Making .venv'; \
	  $(PYTHON) -m venv --clear .venv; \
	}
	@echo 'Installing into .venv (the first time this takes several minutes)'
	@$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -e '.[dev]'
	@touch $@
