# `make demo` and `make test` are all a fresh machine needs; each makes .venv from the lock if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test soak bench check lock clean

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "microshot needs Python 3.11 to 3.13; try: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# Renders labelled clips, some silent and some broken, extracts with random weights (the published
# ones are a download), trains a common space, asks few-shot questions with and without it, and writes a page.
demo: $(VENV)/.ready
	rm -rf $(DEMO)
	$(BIN)/extract synth $(DEMO)/clips --classes 20 --clips 12 --silent 0.04 --broken 0.02
	$(BIN)/extract run $(DEMO)/clips/manifest.csv --store $(DEMO)/store \
	    --visual simclrv2:variant=r50_1x_sk0,untrained --audio yamnet:untrained || test $$? -eq 1
	$(BIN)/store info $(DEMO)/store
	$(BIN)/learn train $(DEMO)/store --recipe infonce -o $(DEMO)/run
	$(BIN)/learn episodes $(DEMO)/store --shots 1 --shots 5 --queries 5 --episodes 2000 \
	    --head prototypes --head nearest --head logistic --projection none --projection $(DEMO)/run \
	    -o $(DEMO)/results
	$(BIN)/learn report $(DEMO)/results $(DEMO)/run -o $(DEMO)/report.html --media $(DEMO)/clips

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

soak: $(VENV)/.ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m soak -o faulthandler_timeout=3600

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

lock:
	uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --extra dev --no-annotate \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) $(DEMO)
