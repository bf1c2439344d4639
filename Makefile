# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
THOROUGH := tests/scenarios/test_s3.py tests/scenarios/test_training_group.py
# One worker runs what starts Ray, the others everything else; torch's threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast test-faults test-ci-faults soak check docs lint lock clean
help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev,cpu]'
	touch $@

demo: .venv/installed  ## make a noisy crawl of real images in ./demo and clean it
	$(BIN)/capfilt demo --out demo

test: .venv/installed  ## all tests but the slow faults
	$(PYTEST)

test-fast: .venv/installed  ## the inner loop: what needs no Ray and no more than a second or two
	$(PYTEST) -m 'not ray and not slow and not thorough'

test-faults: .venv/installed  ## every fault: lost machines, full disks, a store in trouble, kills at every step
	$(PYTEST) tests/scenarios/faults $(THOROUGH) -m 'thorough or not thorough'

test-ci-faults: .venv/installed  ## one slow fault of each kind, as .ci/run plays them out
	$(PYTEST) -m 'thorough and ci'

soak: .venv/installed  ## 20 random kills over a whole demo, in ./soak
	$(BIN)/python -m tests.scenarios.faults.soak --kills 20 --seed 0 --out soak

docs: .venv/installed  ## write docs/recipe.md and docs/recipe.schema.json from the recipe's classes
	$(BIN)/python -m capfilt.pipeline.planning.reference

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
