# Everything runs in .venv; each target does the set-up that it needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PARALLEL ?= 2

.PHONY: install demo test test-slow test-all lint bench faults soak oracle
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: install  ## pretrain, evaluate and compare on Fashion-MNIST: seconds the second time
	$(BIN)/python tools/suite.py recipes/suites/demo.yaml

test: install  ## the default tests: no network, no marks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PARALLEL) -m "not slow and not dist and not browser and not faults and not oracle"

test-slow: install  ## the slow, two-process, browser and fault tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PARALLEL) -m "slow and not dist and not browser and not faults" --timeout 900
	$(BIN)/python -m pytest -m "dist or browser or faults" --timeout 600

test-all: test test-slow

faults: install  ## break real runs on purpose, in 10 minutes on two cores: a table of what survived
	$(BIN)/python tools/faults.py --out results/faults.json

soak: install  ## half an hour of one run, killed each minute
	$(BIN)/python tools/faults.py --soak 30 --out results/faults.json

oracle: install  ## the linear probe against scikit-learn's on all of Fashion-MNIST: a quarter of an hour
	$(BIN)/python -m pytest -m oracle -s --timeout 7200

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python tools/bench.py recipes/simclr_resnet.yaml --vs lightly
