# One command each: `make run` (a real container through the shim) and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell for p in /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
PREFIX ?= /usr/local
DESTDIR ?=
# Printed by every test run; `make test SEED=…` repeats the order and the random data of one.
ifndef SEED
SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
endif
PYTEST = $(PY) -X dev -bb -m pytest --randomly-seed=$(SEED) --hypothesis-seed=$(SEED) $(ARGS)
PIP = $(PY) -m pip -q --disable-pip-version-check install --root-user-action=ignore

NATIVE := $(wildcard shimv2/*/*.[ch])
SCRIPTS := $(VENV)/bin/containerd-shim-pyrunc-v2 $(VENV)/bin/shimctl

.PHONY: help setup venv run test test-reclaim test-pythons vm unit criu lint fmt type check cover protos soak e2e-matrix critest differential conformance conformance-page bench bench-guard density performance install uninstall clean clean-room

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables        PYTHON=$(PYTHON)  SEED=…  ARGS='pytest arguments'  PREFIX=$(PREFIX)  DESTDIR="

setup: ## install the Debian packages that are missing (root and apt)
	@PYTHON="$(PYTHON)" tools/setup.sh all

# --- the virtual environment: first the packages that run the shim, then those that test it ----------------------
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev
NATIVE_STAMP := $(VENV)/.stamp-native
# $(call requirements,EXPRESSION over the [project] table)
requirements = $(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*$(1), sep="\n")'

$(PY):
	@PYTHON="$(PYTHON)" tools/setup.sh venv
	@python="$(PYTHON)"; python="$${python:-/usr/bin/python3}"; echo "venv: $(VENV) with $$python"; \
		"$$python" -m venv $(VENV)

$(RUN_STAMP): pyproject.toml | $(PY)
	@echo "venv: what the shim needs"
	@$(call requirements,p["dependencies"] + p["optional-dependencies"]["shimctl"]) > $(VENV)/run.txt
	@$(PIP) -r $(VENV)/run.txt
	@# A path file, not an import hook: modules are imported from the tree, with one more stat(2) in each start.
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/containerd-shim-pyrunc.pth"
	@touch $@

$(DEV_STAMP): pyproject.toml $(RUN_STAMP)
	@echo "venv: what the tests need"
	@$(call requirements,p["optional-dependencies"]["dev"]) > $(VENV)/dev.txt
	@$(PIP) -r $(VENV)/dev.txt
	@touch $@

$(NATIVE_STAMP): $(NATIVE) setup.py $(RUN_STAMP)
	@echo "venv: the C parts"
	@$(PY) -c 'import setuptools' 2>/dev/null || $(PIP) 'setuptools>=66'
	@$(PY) -W ignore setup.py -q build_native
	@touch $@

$(VENV)/bin/containerd-shim-pyrunc-v2: $(RUN_STAMP) tools/script.sh
	@PY="$(CURDIR)/$(PY)" tools/script.sh $@ shimv2.cli
$(VENV)/bin/shimctl: $(RUN_STAMP) tools/script.sh
	@PY="$(CURDIR)/$(PY)" tools/script.sh $@ shimv2.shimctl.cli

venv: $(DEV_STAMP) $(NATIVE_STAMP) $(SCRIPTS) ## make the virtual environment .venv with all that tests and lint need

# --- run and test -----------------------------------------------------------------------------------
run: setup $(NATIVE_STAMP) $(SCRIPTS) ## run a real container: output, exit status, and a second daemon that takes over
	@$(PY) -m shimv2.shimctl.story $(if $(SHIM),--shim $(SHIM))

test: setup venv ## all tests: unit, wire, and end to end with runc, crun and containerd (root)
	@echo "SEED=$(SEED)"
	@echo "left out: the long ones (make soak), checkpoint and restore (make criu), the Go shims (make differential),"
	@echo "          daemons and runtimes of other releases (make e2e-matrix)"
	@$(PYTEST) -m "not soak and not criu and not differential and not matrix"

# The tests of whole container lifecycles, and of what is left behind.
RECLAIM := life exit_output order outputs stdin terminal pods restart bursts same_time reclaim
test-reclaim: setup venv ## the core of e2e with shims that reclaim shared memory whenever they are idle
	@echo "SEED=$(SEED)"
	@SHIM_TEST_RECLAIM=1 $(PYTEST) -m "not soak and not criu" $(RECLAIM:%=tests/e2e/test_%.py)

# RUN='command' runs that instead of the tests; tests/vm/README.md lists the variables.
vm: export VM_RUN = $(value RUN)
vm: venv ## the end-to-end tests in emulated machines with cgroup v2 only
	@echo "SEED=$(SEED)" >&2
	@$(PY) -m tests.vm --randomly-seed=$(SEED) $(ARGS)

unit: venv ## the tests that need no privileges (two minutes)
	@echo "SEED=$(SEED)"
	@$(PYTEST) -m "not soak and not root" $(or $(filter tests/%,$(ARGS)),tests/unit tests/wire)

criu: setup venv ## checkpoint and restore, with a criu that works on this kernel (downloaded if necessary)
	@tools/criu.sh
	@echo "SEED=$(SEED)"
	@$(PYTEST) -m "criu and not soak"

soak: setup venv ## the long tests: 200 × ctr run, 20 restarts of containerd, 10 upgrades of it
	@echo "SEED=$(SEED)"
	@SHIM_TEST_SOAK=1 $(PYTEST) --timeout=1200 -m soak
	@echo "with cgroup v2"
	@$(PY) -m tests.vm --randomly-seed=$(SEED) tests/e2e/test_oom.py -m soak

# RESULTS="FOLDER..." adds results of other runs; those of make vm are added without it.
RESULTS ?= $(wildcard .cache/vm)
PROVEN := .cache/conformance
conformance: setup venv ## write docs/conformance.md: the rules of tests/rules.toml that the tests prove, with runc and crun
	@tools/criu.sh
	@echo "SEED=$(SEED)"
	@rm -rf $(PROVEN)
	@# Failed tests do not stop the target: the page shows them, and `conformance-page` fails.
	@export SHIM_TEST_RULES="$(CURDIR)/$(PROVEN)"; \
		$(PYTEST) -q -m "rule and not soak" || true; \
		SHIM_TEST_RUNTIME=crun $(PYTEST) -q -m "rule and root and not soak" tests/e2e || true
	@$(MAKE) --no-print-directory conformance-page

conformance-page: ## write docs/conformance.md again, from the results of the last run
	@$(PY) -m tests.support.conformance docs/conformance.md $(PROVEN) $(RESULTS)

e2e-matrix: setup venv ## each daemon release with each runtime release; writes the table to .cache/matrix
	@tools/nerdctl.sh || [ $$? = 3 ]
	@echo "SEED=$(SEED)"
	@$(PYTEST) -m "not soak and not criu" $(or $(filter tests/%,$(ARGS)),tests/daemons)

critest: setup venv ## Kubernetes' tests of a container runtime, with this shim and the Go shim; writes docs/critest.md; needs go
	@$(PY) -m tests.daemons.critest docs/critest.md $(ARGS)

differential: setup venv ## make the same calls to Debian's Go shims of three releases and compare each answer
	@echo "SEED=$(SEED)"
	@$(PYTEST) -v --tb=short -m differential tests/differential

check: lint type test ## lint, types, all tests

lint: $(DEV_STAMP) ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

fmt: $(DEV_STAMP) ## format the code with ruff
	@$(PY) -m ruff check --fix-only -q .
	@$(PY) -m ruff format .

type: $(DEV_STAMP) ## mypy --strict
	@$(PY) -m mypy

# PYTHONS="3.13 3.14t /path/to/python" names them, PARTS="unit memory e2e protobuf" what each of them runs.
test-pythons: setup venv ## unit, wire and the core of e2e with each CPython from 3.11 on that this machine or Debian has
	@echo "SEED=$(SEED)"
	@PYTHONS="$(PYTHONS)" PARTS="$(PARTS)" $(PY) -m tests.pythons --randomly-seed=$(SEED) --hypothesis-seed=$(SEED) $(ARGS)

cover: setup venv ## branch coverage of the unprivileged tests
	@$(PIP) 'coverage>=7.4'
	@$(PY) -X dev -bb -m coverage run --branch --source=shimv2,ttrpc -m pytest -q \
		--randomly-seed=$(SEED) -m "not soak and not root" tests/unit tests/wire
	@$(PY) -m coverage report --skip-covered --omit='*_pb2.py'

protos: $(DEV_STAMP) ## generate protos/*_pb2.py from the .proto texts
	@$(PY) -m protos.generate

# --- performance ----------------------------------------------------------------------------------
BENCH = $(PY) -m bench
N ?= 100
bench: setup venv ## measure this shim, the Go shims and the Rust shim in turns: make bench ARGS='--only start,delete --pairs 10'
	@$(BENCH) run $(ARGS)

bench-guard: setup venv ## a short bench against Debian's Go shim, 90 s: fails if a speed-up does not work any more
	@$(BENCH) guard $(ARGS)

density: setup venv ## many containers at the same time: make density N=500
	@$(BENCH) density $(N) $(if $(SHIM),--shim $(SHIM)) $(ARGS)

performance: venv ## write docs/performance.md from the last make bench
	@$(BENCH) page docs/performance.md $(ARGS)

# --- install --------------------------------------------------------------------------------------
install uninstall: export PREFIX := $(PREFIX)
install uninstall: export DESTDIR := $(DESTDIR)
install: $(RUN_STAMP) ## install into PREFIX (/usr/local), below DESTDIR
	@PY="$(CURDIR)/$(PY)" PYTHON="$(PYTHON)" tools/install.sh install

uninstall: ## remove the files that install made
	@tools/install.sh uninstall

# --- clean ------------------------------------------------------------------------------------------
clean: ## remove .venv and all generated files except the protocol modules
	@rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage shimv2/_bin *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment of a new user: no HOME, no cache, Debian's PATH.  Only the network's variables are kept.
CLEAN_KEEP := http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE
clean-room: ## make run and make test from a new clone, with an empty HOME and Debian's PATH
	@room=$$(mktemp -d /tmp/clean-room.XXXXXX); trap 'rm -rf "$$room"' EXIT; \
	git clone -q . "$$room/tree"; mkdir "$$room/home"; \
	keep=(); for name in $(CLEAN_KEEP); do [ -z "$${!name:-}" ] || keep+=("$$name=$${!name}"); done; \
	for target in run test; do \
		echo "clean-room: make $$target"; \
		env -i HOME="$$room/home" PATH=/usr/sbin:/usr/bin:/sbin:/bin PIP_NO_CACHE_DIR=1 LANG=C.UTF-8 \
			"$${keep[@]}" make -C "$$room/tree" --no-print-directory $$target; \
	done
