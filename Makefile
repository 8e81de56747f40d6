# Everything is set up by the target that needs it: `make demo` and `make test` work on a fresh
# clone. PYTHON names the interpreter (3.10 to 3.12) that the environments are made from.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
  "$$p" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
  && echo "$$p" && break; done)
VENV := .venv
ORACLE := .venv-oracle

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz test-gpu gate test-oracle full-size check bench hot-paths cpu-check serve-check soak overload-check kill-check chaos load-check preprocess-check batch-check rivals golden examples audit release lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## Make the environment (the other targets do it themselves)

demo: $(VENV)/ready ## Export, serve and query the demo model, and check its answers
	@$(VENV)/bin/python demo/run.py

# Two files of tests at a time: many wait for servers.
test: $(VENV)/ready ## Run the tests (no torch, no GPU)
	@$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

fuzz: $(VENV)/ready ## Fuzz every reader of foreign bytes, guided by coverage (12 minutes)
	@PYTHONPATH=tests:demo $(VENV)/bin/python -W ignore -m fuzz.run $(ARGS)

test-gpu: $(VENV)/ready ## Run the tests that need an NVIDIA GPU
	@$(VENV)/bin/python -m pytest -q -m gpu

gate: $(VENV)/ready ## Build engines of full size ahead of time and inspect them (no GPU)
	@PYTHONPATH=demo $(VENV)/bin/python tests/gate.py

test-oracle: $(ORACLE)/ready ## Compare live with torch and transformers (Python 3.11 or newer)
	@$(ORACLE)/bin/python -c 'import torch, transformers' || \
	  { echo "torch and transformers are not there; they need Python 3.11 or newer" >&2; exit 1; }
	@$(ORACLE)/bin/python -m pytest -q tests/oracle

full-size: $(ORACLE)/ready ## Measure parity, time and memory of export at full size (10 minutes)
	@PYTHONPATH=tests $(ORACLE)/bin/python -W ignore tests/oracle/full_size.py

check: $(VENV)/ready ## Lint and check types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: $(VENV)/ready ## Measure cards of this machine, and write a report that compares them (15 minutes)
	@$(VENV)/bin/python -W ignore bench/cards.py $(ARGS)

hot-paths: $(VENV)/ready ## Time the hot paths, as multiples of loops of their kind
	@PYTHONPATH=bench $(VENV)/bin/python -m pytest -q -p multiples bench/hot_paths.py --benchmark-columns=min,median,iqr,rounds $(ARGS)

cpu-check: $(ORACLE)/ready ## Compare the speed of LocalClip with transformers on this CPU
	@PYTHONPATH=tests:demo $(ORACLE)/bin/python -W ignore bench/cpu_check.py $(ARGS)

serve-check: $(VENV)/ready ## Compare the speed of a served model with LocalClip on this CPU
	@$(VENV)/bin/python -W ignore bench/serving_check.py $(ARGS)

soak: $(VENV)/ready ## Ask, kill and reload for an hour, check every answer, watch what grows
	@PYTHONPATH=tests:bench $(VENV)/bin/python -W ignore -m soak $(ARGS)

overload-check: $(VENV)/ready ## Ask a served model for up to five times what it can answer (12 minutes)
	@PYTHONPATH=bench $(VENV)/bin/python -W ignore bench/overload_check.py $(ARGS)

kill-check: $(VENV)/ready ## Kill batch runs at random moments and compare what they end with
	@PYTHONPATH=tests $(VENV)/bin/python -W ignore bench/kill_check.py $(ARGS)

chaos: $(VENV)/ready ## Inject faults at random under traffic, and check every answer (30 minutes)
	@PYTHONPATH=tests:bench $(VENV)/bin/python -W ignore -m chaos $(ARGS)

load-check: $(VENV)/ready ## Hold the load generator against queueing theory (2 minutes)
	@PYTHONPATH=tests $(VENV)/bin/python -W ignore bench/load_check.py $(ARGS)

preprocess-check: $(ORACLE)/ready ## Compare the speed of preprocessing with transformers on this CPU
	@$(ORACLE)/bin/python -W ignore bench/preprocess_check.py $(ARGS)

batch-check: $(ORACLE)/ready ## Compare batch jobs with their ceilings and transformers on this CPU (an hour)
	@PYTHONPATH=tests:demo:bench $(ORACLE)/bin/python -W ignore bench/batch_check $(ARGS)

rivals: $(VENV)/ready ## Compare the speed of cliprt with its rivals on this CPU
	@PYTHONPATH=bench $(VENV)/bin/python -W ignore -m rivals $(ARGS)

golden: $(ORACLE)/ready ## Make the tests' golden files again from transformers
	@$(ORACLE)/bin/python tests/oracle/make_golden.py

examples: $(VENV)/ready ## Write triton_models/examples again, the configurations of ViT-B/32
	@PYTHONPATH=tests $(VENV)/bin/python tests/repository_examples.py

audit: $(VENV)/ready ## Look for secrets in the tree, and for known holes in what is pinned
	@$(VENV)/bin/python .ci/audit.py

release: $(VENV)/ready ## Build sdist and wheel into dist/, with an SBOM and checksums
	@$(VENV)/bin/python .ci/release.py

lock: $(VENV)/ready ## Choose new versions for constraints.txt
	@$(VENV)/bin/pip install --quiet uv && UV=$(VENV)/bin/uv .ci/lock

clean: ## Remove the environments
	@rm -rf $(VENV) $(ORACLE)

$(VENV)/ready: pyproject.toml constraints.txt
	@$(call make_venv,$(VENV),test)

$(ORACLE)/ready: pyproject.toml constraints.txt
	@$(call make_venv,$(ORACLE),oracle)

# $(1): folder, $(2): extra. Named by the environment, the constraints hold for the build as well.
define make_venv
	test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 with venv found; install one (Debian: apt install python3-venv) or set PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "setting up $(1) with $$($(PYTHON) --version) ..." >&2; \
	rm -rf $(1) && $(PYTHON) -m venv $(1) \
	&& PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(1)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --editable '.[$(2)]' \
	&& touch $(1)/ready
endef
