# What people type. Each target sets up what it needs in .venv; running one again at once costs nothing.

PYTHON ?= python3
BIN := .venv/bin
CMAKE := $(shell command -v cmake || echo $(BIN)/cmake)
# torch and its thread pools on a small machine: one pool, and none that spins while it waits.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compilers that run at once.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

RUNNER_INPUTS := CMakeLists.txt $(shell find native -type f -not -path 'native/bindings/*')
BUILD_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(shell find native -type f -not -path 'native/runner/*')
# `make runner` needs no Python; whatever else is made has cmake and nlohmann-json from there, if need be.
LIBRARIES := $(if $(findstring runner,$(MAKECMDGOALS)),,.venv/libraries.stamp)
CORE := build/core/libcutset_core.a
CORE_INPUTS := CMakeLists.txt $(shell find native/kernels native/core -type f)
SOURCES := src tests training benchmarks attacks release
# The time in what is built: that of the commit, where this is a checkout of one.
EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),1667997441)
NATIVE := $(shell find native -name '*.cpp' -o -name '*.h')

.PHONY: help demo test-built test test-all test-oldest test-llama-index smollm2 onnx-models quotes wheel rebuild sanitized sanitize \
	lint format runner runner-asan \
	benchmarks clean

help:
	@echo "make demo        the bundled model writes a story"
	@echo "make test        the quick tests; make test-all adds the slow ones"
	@echo "make test-oldest the quick tests with the oldest libraries that are supported"
	@echo "make test-llama-index  LlamaIndex's calls of the server, which want an older official client"
	@echo "make smollm2     fetches the real model that some tests need into the user's cache; make test does it"
	@echo "make onnx-models fetches two trained ONNX files that some tests need, likewise"
	@echo "make quotes      fetches real quotes of enclaves that some tests need, likewise"
	@echo "make wheel       builds dist/: an sdist, and a wheel that installs without a compiler"
	@echo "make rebuild     builds that wheel from the sdist twice more, elsewhere, and compares every byte: takes a while"
	@echo "make sanitize    the native tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make lint        ruff, mypy, clang-format;  make format mends what can be mended"
	@echo "make runner      builds build/runner/cutset-runner, which needs no Python; runner-asan one with sanitizers"
	@echo "make bench-NAME  measures NAME (decode, link, stream, …: see python -m benchmarks) into benchmarks/NAME.json"
	@echo "make benchmarks  writes BENCHMARKS.md anew from the result files in benchmarks/"

# The core alone: no torch.
.venv/core.stamp: $(BUILD_INPUTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

# Everything that tests and linters need. The extension is built where its build tools lie: in an environment of its
# own pip would compile it, and the wheel's build once more.
.venv/dev.stamp: .venv/libraries.stamp $(CORE) $(BUILD_INPUTS)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -C cmake.define.CUTSET_CORE=$(abspath $(CORE)) -e .
	@touch $@ .venv/core.stamp

.venv/libraries.stamp: pyproject.toml constraints.txt tests/dependencies.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python tests/dependencies.py torch dev > .venv/requirements.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -r .venv/requirements.txt
	@touch $@

# The kernels and the decoder core, compiled once for the extension and the runner; `make -j` does so while pip loads.
$(CORE): $(CORE_INPUTS) $(if $(shell command -v cmake),,$(LIBRARIES))
	$(call configure,build/core)
	$(CMAKE) --build build/core --target cutset_core
	@touch $@

# What goes wrong when it is configured is one line in most cases: a package that is missing.
define configure
	@command -v $(CMAKE) >/dev/null || { echo "building needs cmake: install the package cmake" >&2; exit 1; }
	@mkdir -p $(1)
	@$(CMAKE) -S . -B $(1) $(2) >$(1)/configure.log 2>&1 || \
		{ grep -o 'cutset-runner needs.*' $(1)/configure.log >&2 || cat $(1)/configure.log >&2; exit 1; }
endef

demo: .venv/core.stamp
	$(BIN)/cutset demo

# A file of tests stays in one process: what it sets up once serves all of it.
test: test-built
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What the tests need.
test-built: .venv/dev.stamp runner wheel smollm2 onnx-models quotes

test-all: test-built runner-asan
	$(BIN)/python -m pytest -m 'slow or not slow'

# 98 MB, once; the script says where it goes.
smollm2: .venv/dev.stamp
	@$(BIN)/python tests/smollm2.py

# Two files of 10 and 12 MB, once, to the same place.
onnx-models: .venv/dev.stamp
	@$(BIN)/python tests/real_onnx.py

# A few files of some KB, once, to a directory there.
quotes: .venv/dev.stamp
	@$(BIN)/python tests/real_quotes.py

# The quick tests with the lowest versions that users may have, in an environment of their own; transformers, which
# needs newer ones, is absent, and so are its comparisons.
test-oldest: .venv-oldest/stamp
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile

.venv-oldest/stamp: $(BUILD_INPUTS) tests/oldest.py
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/oldest.txt -e '.[torch,stream,serve,hub,onnx,openvino,trust]' \
		pytest pytest-xdist hypothesis safetensors ml_dtypes openai httpx
	@touch $@

# LlamaIndex pins an official client of before the one that the other tests have.
test-llama-index: .venv-llama-index/stamp
	.venv-llama-index/bin/python -m pytest -W default tests/serve/with_llama_index.py

.venv-llama-index/stamp: $(BUILD_INPUTS)
	@test -x .venv-llama-index/bin/python || $(PYTHON) -m venv .venv-llama-index
	.venv-llama-index/bin/python -m pip install --quiet -e '.[serve]' pytest hypothesis httpx \
		llama-index-llms-openai-like==0.8.1
	@touch $@

# Built where the environment's build tools lie, so that what was compiled for the tests is taken as it is.
wheel: .venv/wheel.stamp
.venv/wheel.stamp: .venv/dev.stamp LICENSE README.md $(shell find src release -type f -not -name '*.pyc')
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist --sdist .
	$(BIN)/python -m build --no-isolation --outdir dist -C cmake.define.CUTSET_CORE=$(abspath $(CORE)) --wheel .
	$(BIN)/python -m release dist
	@touch $@
.venv/wheel.stamp rebuild: export SOURCE_DATE_EPOCH = $(EPOCH)

# Nothing of this directory is used but the sdist.
rebuild: wheel
	$(BIN)/python -m release dist --again

# The sanitizers' libraries must be there before Python starts; the interpreter's own leaks aren't ours.
sanitize: sanitized .venv/dev.stamp
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(BIN)/python tests/run_sanitized.py

sanitized: .venv/libraries.stamp
	$(CMAKE) -S . -B build/sanitized -DSKBUILD=ON -DCUTSET_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) > /dev/null
	$(CMAKE) --build build/sanitized

lint: .venv/libraries.stamp
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

format: .venv/dev.stamp
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i $(NATIVE)

# Where .venv has the header library, so that a machine without its package builds the runner.
JSON_INCLUDE = $(abspath $(shell ls -d .venv/lib/python3*/site-packages/nlohmann_json/include 2>/dev/null))

runner: build/runner/cutset-runner
runner-asan: build/runner-asan/cutset-runner
build/runner/cutset-runner: RUNNER_OPTIONS = -DCUTSET_CORE=$(abspath $(CORE))
build/runner/cutset-runner: $(CORE)
build/runner-asan/cutset-runner: RUNNER_OPTIONS := -DCUTSET_SANITIZE=ON

build/%/cutset-runner: $(RUNNER_INPUTS) | $(LIBRARIES)
	$(call configure,$(@D),-DCUTSET_RUNNER=ON $(RUNNER_OPTIONS) -DCUTSET_JSON_INCLUDE="$(JSON_INCLUDE)")
	$(CMAKE) --build $(@D) --target cutset-runner
	@touch $@

# ARGS are further arguments: make bench-decode ARGS='--python PYTHON'.
bench-%: .venv/core.stamp
	$(BIN)/python -m benchmarks $* --json benchmarks/$*.json $(ARGS)

benchmarks: .venv/core.stamp
	$(BIN)/python -m benchmarks report

clean:
	rm -rf .venv .venv-oldest .venv-llama-index build dist
