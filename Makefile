# Two commands on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE := configs/recipes/quickstart.yaml
OLDEST := .venv-oldest
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# One thread a process: the models here are small, threads that wait for each other spin, and sums do not depend on the
# number of cores.
export OMP_NUM_THREADS := 1

.PHONY: help setup quickstart data test check pytest test-oldest test-matrix docs results speed training-speed threads learning compare clean

help:
	@echo "make quickstart   train a small Vision Transformer on real digits, save it for the Hub, load it as a stranger"
	@echo "make data         fetch the Debian packages that hold the other data sets into data/ (450 MB, no root needed)"
	@echo "make test         format, lint, types, transformers' linter and all tests, on the newest tested versions"
	@echo "make test-oldest  all tests on the oldest supported versions, in an environment of its own"
	@echo "make test-matrix  parity at real size, every head on every backbone, every supported version: two hours"
	@echo "make docs         the site of docs/ into .cache/site, every warning an error"
	@echo "make speed        members beside transformers' and timm's models, timed in turns, into docs/speed.md"
	@echo "make results      measure what the README claims, and write it there and into docs/results.md"
	@echo "make training-speed  Trainer beside a bare loop, pictures prepared beside pictures trained on, into docs/training_speed.md"
	@echo "make threads      one and two threads with busy processes beside, into docs/threads.md"
	@echo "make compare      what is said of ViTs and CNNs, put to the test, into docs/vit_vs_cnn.md: an hour"
	@echo "make learning     the recipes of every head over three seeds, into docs/learning.md: an hour or two"
	@echo "make clean        remove the environments, caches and runs"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: call make PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV): this installs some 6 GB, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup
	$(BIN)/python scripts/train.py $(RECIPE) --overwrite
	cd "$$(mktemp -d)" && "$(CURDIR)/$(BIN)/python" "$(CURDIR)/scripts/load_as_stranger.py" "$(CURDIR)/runs/quickstart"

# Which sets: make data ARGS="fashion_mnist scenes"; all if left out.
data: setup
	$(BIN)/python scripts/get_data.py $(ARGS)

test: check pytest

check: setup .cache/mlinter.toml
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mlinter modeling_vit_custom --rules-toml .cache/mlinter.toml --no-cache --no-progress

# transformers' linter for model folders, all its default rules but one: TRF057 wants @auto_docstring, which outside the
# library writes placeholders ("The bare None Model") and costs most of the import time.
.cache/mlinter.toml: $(VENV)/.ready
	@mkdir -p .cache
	sed '/^\[rules.TRF057\]/,/^default_enabled/ s/^default_enabled = true/default_enabled = false/' \
		"$$($(BIN)/python -c 'import mlinter; print(mlinter.__path__[0])')/rules.toml" > $@

pytest: setup
	$(BIN)/python -m tests.transformers_common fetch
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@echo "Setting up $(OLDEST): this installs some 6 GB, once."
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	@touch $@

# Like `pytest`, on the floors that pyproject.toml states; the outcome goes into docs/tested_versions.md.
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m tests.transformers_common fetch
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadgroup --record $(ARGS)

# What is too heavy for every run. Where a case takes seconds, `make pytest` takes one of each kind, and this takes all.
# Models of real size beside other libraries', into docs/parity.md; and every head on
# every backbone at every size, also by torch's compiler, which needs a C++ compiler, into docs/matrix.md; and what is
# saved today in every supported version of transformers, which pip fetches into .cache (1.3 GB), into docs/versions.md;
# and runs that are killed at random moments, into docs/killed.md.
MATRIX := tests/test_matrix.py tests/test_shipping.py tests/test_transformers_common.py
HEAVY := $(addprefix tests/test_, full_size.py backbone.py modeling_dual_encoder.py modeling_vit_custom.py presets.py \
	training.py training_adapters.py twins.py)
test-matrix: setup $(OLDEST)/.ready
	$(BIN)/python -m tests.transformers_common fetch
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m full_size --record-parity $(HEAVY) $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "" --record-matrix $(MATRIX) $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m full_size --record-killed tests/test_training_checkpoints.py $(ARGS)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m full_size --record-versions tests/test_versions.py $(ARGS)

# The pages as a site; in an environment of its own, which reads the package and does not import it.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check mkdocs-material 'mkdocstrings[python]'
	@touch $@

# Members beside transformers' and timm's models, taking turns; into docs/speed.md. The machine should be idle.
speed: setup
	$(BIN)/python scripts/benchmark.py

# One and two threads on a machine that is busy by this script alone; into docs/threads.md.
threads: setup
	$(BIN)/python scripts/time_threads.py $(ARGS)

# Trainer's step beside a bare loop's; into docs/training_speed.md. The machine should be idle.
training-speed: setup
	$(BIN)/python scripts/time_training.py

# A tutorial's comparison of ViTs and CNNs as experiments, into docs/vit_vs_cnn.md; needs `make data ARGS=fashion_mnist`.
compare: setup
	$(BIN)/python scripts/compare.py $(ARGS)

# Measures what the README and docs/results.md claim, and writes it there.
results: setup
	$(BIN)/python scripts/measure.py

# Runs the recipes that need `make data`, over three seeds, into docs/learning.md; an hour or two on two cores.
learning: setup
	$(BIN)/python scripts/learn.py $(ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) .venv-docs .cache runs
