# make roc    set everything up and run the ROC benchmark on the embedded models
# make test   set everything up and run all tests
# make speed  set everything up and print running times as ratios to the bare passes

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: roc test speed setup clean

roc: setup
	$(BIN)/python -m benchmarks.roc --methods eap relp random --out results

test: setup
	$(BIN)/python -m pytest

speed: setup
	$(BIN)/python -m benchmarks.speed

setup: $(VENV)/installed

# torch is installed by itself, so that an index with a CPU build of this version is used where there is one
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,plots]'
	touch $@

clean:
	rm -rf $(VENV) results *.egg-info
