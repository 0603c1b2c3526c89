# make roc    set everything up and run the ROC benchmark on the embedded models
# make test   set everything up and run all tests, on all cores
# make lint   set everything up and check the form of the code (`ruff check`, `ruff format --check`)
# make docs   set everything up and build the guide in docs/_build/html, its tutorials run
# make speed  set everything up and print running times as ratios to the bare passes
# make test-tl2, make test-tl3   test HookedTransformer in an environment of its own with TransformerLens 2.16 or 3.9

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: docs roc test test-tl2 test-tl3 lint speed setup clean

roc: setup
	$(BIN)/python -m edge_circuits.benchmarks.roc --methods eap relp random --out results

test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test-tl2 test-tl3: test-%: $(VENV)/%/installed
	$(VENV)/$*/bin/python -m pytest tests/hooked

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# warnings are errors
docs: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

speed: setup
	$(BIN)/python -m edge_circuits.benchmarks.speed

setup: $(VENV)/installed

# torch is installed by itself, so that an index with a CPU build of this version is used where there is one
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,benchmarks]'
	touch $@

# exactly the versions of the list: TransformerLens 2.16 asks for a beartype too old for the tests
$(VENV)/tl%/installed: constraints-tl%.txt setup.cfg
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet "$$(grep '^torch==' $<)"
	$(@D)/bin/pip install --quiet --no-deps --requirement $<
	$(@D)/bin/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) results *.egg-info
