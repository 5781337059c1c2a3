# One front door: `make` lists what there is. Every target makes the environment it needs, in .venv
# (VENV=... for another place), from the first CPython >= 3.11 on the PATH (PYTHON=... for another).

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?=
N ?= 20
SECONDS ?= 1800
BENCH ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PURE := $(wildcard $(addprefix tests/test_,scheduler*.py events.py wire.py errors.py floors.py))

# One stamp per set of tools, renewed when pyproject.toml changes or another PYTHON is asked for.
stamp = $(VENV)/.has-$(1)$(subst /,_,$(PYTHON))

define install
	@python=$$(PYTHON='$(PYTHON)' tools/find_python.sh); "$$python" tools/make_venv.py $(VENV) $(1)
	@touch $@
endef

# Two stamps would have two pips write to one environment.
.NOTPARALLEL:

.PHONY: help setup test-tools demo pure test check agree faults stress matrix \
    bench bench-joblib bench-compare bench-plot counts docs dist ci clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(call stamp,test) $(call stamp,frameworks) $(call stamp,lint) ## make .venv with everything needed to work on hookpool
	@echo "ready: $(BIN)"

test-tools: $(call stamp,test)

demo: $(call stamp,demo) ## see it work: parse the whole standard library in parallel, three ways
	@$(BIN)/python demo/stdlib_census.py

pure: $(call stamp,test) ## the tests that start no process: seconds, to run on each save
	@$(PYTEST) -q $(PURE)

test: $(call stamp,test) $(call stamp,frameworks) ## the test suite, all but the slow ones
	@$(PYTEST)

check: $(call stamp,test) $(call stamp,lint) ## formatting, lint, types, floors
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) -q tests/test_floors.py

agree: $(call stamp,test) $(call stamp,frameworks) ## other projects' own test suites, run on our executor
	@$(PYTEST) -q -m agree --timeout 600 -o faulthandler_timeout=590

faults: $(call stamp,test) $(call stamp,frameworks) ## the slow tests: every way to die, on every start method
	@$(PYTEST) -q -m slow --timeout 300 -o faulthandler_timeout=290

stress: $(call stamp,test) ## two soaks with random kills for SECONDS=1800 each, then the races N=20 times over
	@HOOKPOOL_STRESS_SECONDS=$(SECONDS) $(PYTEST) -q -x -m stress \
	    -o faulthandler_timeout=0 tests/test_stress.py tests/test_large_soak.py
	@for n in $$(seq $(N)); do echo "round $$n"; $(PYTEST) -q -x -m stress --timeout 300 -o faulthandler_timeout=290 \
	    --ignore tests/test_stress.py --ignore tests/test_large_soak.py; done

matrix: ## make test on each CPython >= 3.11 that the PATH and pyenv have, in .venvs/
	@tools/each_python.sh -q

bench: $(call stamp,bench) ## compare with other pools and picklers, about half an hour; BENCH='--quick' one minute
	@$(BIN)/python -m bench.run $(BENCH)

bench-joblib: $(call stamp,bench) ## joblib on loky against joblib on hookpool, pair by pair, three minutes
	@$(BIN)/python -m bench.joblib_cases $(BENCH)

bench-compare: $(call stamp,bench) ## what changed between two records: A=bench/history/... B=...
	@$(BIN)/python -m bench.compare $(A) $(B)

bench-plot: $(call stamp,bench) ## draw bench/plots/ from all of bench/history/
	@$(BIN)/python -m bench.plot

counts: $(call stamp,test) ## instructions, calls, bytes, messages, modules: none more than before; BENCH=--update
	@$(BIN)/python -m bench.counts $(BENCH)

docs: $(call stamp,docs) ## the site, from docs/ and the docstrings; any warning is an error
	@$(BIN)/python -m sphinx -n -W --keep-going -q -E -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

dist: $(call stamp,dist) ## build wheel and sdist, look into them, import the wheel from an empty place
	@rm -rf dist && $(BIN)/python -m build -q --no-isolation && $(BIN)/python tools/check_dist.py dist

ci: check test faults docs counts dist ## everything a release must pass

clean: ## remove the environments and everything built
	rm -rf .venv .venvs dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(call stamp,demo): pyproject.toml tools/make_venv.py
	$(call install,demo)
$(call stamp,test): pyproject.toml tools/make_venv.py
	$(call install,test)
$(call stamp,frameworks): pyproject.toml tools/make_venv.py
	$(call install,frameworks)
$(call stamp,lint): pyproject.toml tools/make_venv.py
	$(call install,lint)
$(call stamp,bench): pyproject.toml tools/make_venv.py
	$(call install,bench)
$(call stamp,docs): pyproject.toml tools/make_venv.py
	$(call install,docs)
$(call stamp,dist): pyproject.toml tools/make_venv.py
	$(call install,dist)
