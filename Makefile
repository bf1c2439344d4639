# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-faults soak check lint lock clean
help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev,cpu]'
	touch $@

demo: .venv/installed  ## make a noisy crawl of real pictures in ./demo and clean it
	$(BIN)/capfilt demo --out demo

test: .venv/installed  ## all tests but the slow faults
	$(BIN)/python -m pytest

test-faults: .venv/installed  ## every fault: lost machines, full disks, a store in trouble, kills at every step
	$(BIN)/python -m pytest tests/scenarios/faults tests/scenarios/test_s3.py -m 'thorough or not thorough'

soak: .venv/installed  ## 20 random kills over a whole demo, in ./soak
	$(BIN)/python -m tests.scenarios.faults.soak --kills 20 --seed 0 --out soak

lint: .venv/installed  ## format, lint, types, one-way imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and test

lock: .venv/installed  ## write the exact versions of this environment to constraints.txt
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//; s/^faiss-cpu\(.*\)/&\nfaiss-gpu\1/' > constraints.txt

clean:  ## remove the environment and the demo
	rm -rf .venv demo soak
