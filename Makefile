# `make demo` and `make test` are all a fresh machine needs; each makes .venv from the lock if need be.
# CPU=1 leaves the CUDA libraries out: torch comes from TORCH_INDEX, faiss-cpu stands in for faiss-gpu.
PYTHON ?= python3
CPU ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements.lock)
LOCK := requirements$(if $(CPU),-cpu).lock
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test wheel site soak bench gpu check lock newest resolve footprint clean

$(VENV)/.ready: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "microshot needs Python 3.11 to 3.13; try: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
ifneq ($(CPU),)
	$(BIN)/pip install --quiet --no-deps --index-url $(TORCH_INDEX) torch==$(TORCH) torchaudio
endif
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# Renders labelled clips, some silent and some broken, of which neither sense alone tells everything; extracts with the
# encoders of the install, solves a projection on the base classes, asks about novel ones with and without it, compares what
# sight, sound and both are worth, and writes a page. A projection that is worse than none ends it.
demo: $(VENV)/.ready
	rm -rf $(DEMO)
	$(BIN)/extract synth $(DEMO)/clips --classes 28 --clips 12 --seconds 1.5 --visual 0.85 --audio 0.72 \
	    --silent 0.04 --broken 0.02
	$(BIN)/extract run $(DEMO)/clips --store $(DEMO)/store || test $$? -eq 1
	$(BIN)/store info $(DEMO)/store
	$(BIN)/learn train $(DEMO)/store --recipe whiten -o $(DEMO)/whiten
	$(BIN)/learn episodes $(DEMO)/store --shots 1 --shots 5 --queries 4 --episodes 2000 -o $(DEMO)/results
	$(BIN)/learn compare $(DEMO)/results --against all
	$(BIN)/learn episodes $(DEMO)/store --shots 1 --shots 5 --queries 4 --episodes 2000 --projection $(DEMO)/whiten \
	    -o $(DEMO)/whitened
	$(BIN)/learn report $(DEMO)/results $(DEMO)/whitened $(DEMO)/whiten -o $(DEMO)/report.html --media $(DEMO)/clips

# With byte code kept: hundreds of processes are started, and each would compile what it imports.
test: $(VENV)/.ready
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

soak: $(VENV)/.ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m soak -o faulthandler_timeout=3600

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# For a machine with a GPU: ten minutes; gpu.jsonl and a table. GPU="--steps right,extract" for some.
GPU ?=
gpu: $(VENV)/.ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.gpu $(GPU)

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) wheel
	$(MAKE) site
	$(MAKE) test

# Builds the wheel, looks at what is in it, and runs the demo's commands from it in a fresh environment.
wheel: $(VENV)/.ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python .ci/wheel.py

# The documentation as pages that open from a disk: build/site/index.html. Strict, and without a network.
site: $(VENV)/.ready
	$(BIN)/python .ci/site.py

# Both locks, for every Python and machine; the second lacks what only a GPU needs, and torch (see CPU=1).
COMPILE := uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --extra dev --no-annotate \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml
lock:
	$(COMPILE) -o requirements.lock
	$(COMPILE) -o requirements-cpu.lock --override requirements-cpu.in --no-emit-package torch --no-emit-package torchaudio

# The suite with the newest of everything that pyproject.toml admits, in an environment that goes afterwards.
newest:
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	    $(PYTHON) -m venv $$folder && $$folder/bin/pip install --quiet --upgrade pip && \
	    $$folder/bin/pip install --quiet --upgrade-strategy eager --editable '.[dev]' && \
	    $$folder/bin/pip list && { $$folder/bin/pip check || true; } && \
	    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $$folder/bin/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# Size, time, start-up and memory of an installation (PYTHON and CPU as above).
footprint:
	$(PYTHON) benchmarks/install.py $(if $(CPU),--cpu)

# Whether there are wheels of everything for other Pythons and machines; nothing is installed.
resolve:
	@for python in 3.11 3.12 3.13 3.14; do \
	    for machine in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do \
	        echo "== $$python $$machine" && MACOSX_DEPLOYMENT_TARGET=14.0 uv pip compile --quiet --python-version $$python \
	            --python-platform $$machine --only-binary :all: --extra dev --no-annotate --no-header pyproject.toml | \
	            grep -E '^(torch|torchaudio|av|zarr|numpy|faiss-[cg]pu|decord|typer)==' || exit 1; \
	    done; \
	done

clean:
	rm -rf $(VENV) $(DEMO)
