# One command per verb, the same for people and CI. `make demo` and `make test` set up all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint format types imports check constraints clean
.PHONY: cluster-binaries cluster-up cluster-down cluster-images
.PHONY: test-cluster test-cluster-beside test-cluster-alone

install: $(READY)

# uv fills the environment in about half a minute and compiles it in another: every process of a
# run imports torch. DS_BUILD_OPS=0 keeps DeepSpeed from building CUDA ops.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=<interpreter>" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	DS_BUILD_OPS=0 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[train,curate,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python scripts/demo.py

# AGAIN=--last-failed repeats what failed, as .ci/run does once: tests of whole gangs and clusters have
# deadlines, and two cores may be late. What fails alone too is broken.
test: $(READY)
	@command -v go >/dev/null || echo 'Go is missing: stores are tested on file:// alone; with it, make test-cluster adds s3://, gs:// and az://'
	$(BIN)/python -m pytest -n 2 --dist loadfile $(AGAIN)

# A Kubernetes cluster on this machine, as root: control plane, node and operators as in production,
# made-up GPUs. The programs are built once from Go modules and one npm package (half an hour, 1.6 GB).
cluster-binaries: $(READY)
	$(BIN)/python -m tests.cluster.binaries
	$(BIN)/python -m tests.cluster.packages

cluster-up: $(READY)
	$(BIN)/python -m tests.cluster up

cluster-down: $(READY)
	$(BIN)/python -m tests.cluster down

test-cluster: test-cluster-beside test-cluster-alone

# The images of the pods are built first: gigabytes and minutes once, seconds after that.
LONG := --timeout 900 --durations 40
cluster-images: cluster-binaries cluster-up
	$(BIN)/python -m tests.cluster.platform_images

# Long files first, as they are sorted. Three at a time keep two cores busy: runs wait for timers as well.
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder
test-cluster-beside: cluster-images
	$(BIN)/python -m pytest tests/cluster -m "not disruptive" $(BESIDE) $(LONG) $(AGAIN)

# What breaks the control plane or the node.
test-cluster-alone: cluster-images
	$(BIN)/python -m pytest tests/cluster -m disruptive $(LONG) $(AGAIN)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

check: lint types imports test

constraints: $(READY)
	( sed -n '/^#/p' constraints.txt; echo 'torch==2.11.0' | $(BIN)/uv pip compile -q --no-annotate \
	  --no-header --python-version 3.11 --extra train --extra curate --extra gpu --extra gcs --extra azure --extra dev \
	  --constraint - pyproject.toml ) > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) dist build demo .pytest_cache .mypy_cache .ruff_cache
