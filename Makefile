# The project's commands; `make` lists them. Each says what it does as it goes, and does only what is
# left to do: the stamps in .venv say what is installed and whether the engine is newer than its sources.
#
# A fresh machine needs make, Rust and Python >= 3.10. Everything else goes into .venv and target, but
# for a few Debian packages (a C linker, chromium, strace, valgrind), which .ci/need installs where they are missing.

PYTHON ?= python3
PORT ?= 8000
WORKERS ?= 4
# Versions beside that one that the wheel is tested on.
PYTHONS ?= 3.10 3.12 3.13
# Processes that run Python tests side by side.
XDIST ?= 2
# Seconds of the soak, of the load and of the fuzzing, how many times the churn of `make test`, and after which a suite of the engine's tests counts as stuck.
SOAK ?= 60
LOAD ?= 300
FUZZ ?= 60
CHURN ?= 100
PATIENCE ?= 600

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
RUST := Cargo.toml Cargo.lock $(shell find engine -name '*.rs' -o -name Cargo.toml)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
ifdef SIDE_BY_SIDE
# Cargo is told nothing of this make's jobs: a suite that runs on one core would keep the other from who builds.
unexport MAKEFLAGS MFLAGS
else
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test check check-rust check-python built-core test-core test-loom test-shuttle test-crash test-mutants test-threads test-python test-pythons bench bench-check bench-baseline fuzz soak load churn clean tools

# pip and maturin are those of .venv, whatever is active or set outside.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME
export CARGO_TERM_COLOR ?= auto

# Passes cargo's tests through and fails when there was none to run.
COUNTED = awk '{ print; fflush() } /^test result: ok/ { n += $$4 } \
	END { if (!n) { print "==> no test ran"; exit 1 } print "==> " n " tests passed" }'

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# ---- what everything stands on

tools:
	@command -v cargo >/dev/null || { echo "==> Rust is missing: install it with rustup (see rust-version in Cargo.toml)" >&2; exit 1; }
	command -v $(PYTHON) >/dev/null || { echo "==> $(PYTHON) is missing: install Python 3.10 or newer" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
	  echo "==> Python 3.10 or newer is needed: make PYTHON=python3.12 …" >&2; exit 1; }
	.ci/need cc=build-essential timeout=coreutils
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/need no-ensurepip=python3-venv

$(VENV)/.base: pyproject.toml | tools
	@echo "==> virtual environment in $(VENV) ($$($(PYTHON) --version))"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "pip>=25.1" "maturin>=1.9.4,<2"
	touch $@

# One stamp for each use, so that the demo does not wait for browsers and type checkers.
$(VENV)/.demo: $(VENV)/.base
	@echo "==> installing what the demo needs"
	$(PIP) install --group demo
	touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "==> installing what the tests and checks need"
	$(PIP) install --group test --group check
	touch $@

$(VENV)/.bench: $(VENV)/.base
	@echo "==> installing what the benchmarks need"
	$(PIP) install --group bench
	touch $@

$(VENV)/.engine: $(RUST) $(VENV)/.base
	@echo "==> building the engine (release)"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --locked
	touch $@

setup: $(VENV)/.engine $(VENV)/.test ## everything a developer needs, in .venv and target

demo: $(VENV)/.engine $(VENV)/.demo ## a chat served by 4 gunicorn workers, on http://127.0.0.1:8000/
	@echo "==> gunicorn, $(WORKERS) workers, gunicorn_conf.py; Ctrl-C stops it"
	PYTHON=$(BIN)/python PORT=$(PORT) WORKERS=$(WORKERS) exec examples/chat/run.sh

# ---- tests

# What only computes goes two at a time, each with its output in one piece: a search has one core, and so has much of a
# build. What waits for processes and clocks goes alone.
test: $(VENV)/.test ## all checks and tests, after installing what they need
	@$(MAKE) --no-print-directory -j2 --output-sync=target SIDE_BY_SIDE=1 test-mutants check test-threads built-core bench-check test-shuttle test-loom
	$(MAKE) --no-print-directory test-core test-crash test-python
	echo "==> all passed"

check: check-rust check-python ## formatting, clippy, documentation, ruff, mypy strict, stubs against the binary

check-rust: $(VENV)/.base
	@echo "==> cargo fmt, clippy, doc"
	export PYO3_PYTHON=$(BIN)/python
	cargo fmt --all --check
	cargo clippy -q --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc -q --locked --no-deps -p hypern-shm-core
	cargo metadata -q --locked --format-version 1 --manifest-path engine/fuzz/Cargo.toml >/dev/null # its lock file is its own

check-python: $(VENV)/.engine $(VENV)/.test
	@echo "==> ruff, mypy, stubtest"
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest hypern_realtime_shm._engine

# What test-core runs.
built-core: | tools
	@echo "==> building the engine's tests"
	cargo test -q --locked -p hypern-shm-core --no-run

test-core: | tools ## the engine alone, without Python: unit, property and process tests
	@echo "==> engine tests"
	timeout $(PATIENCE) cargo test --locked -p hypern-shm-core -- -q | $(COUNTED)

# These three are built as `.ci/mutants` wants them, too, so that nothing is built twice: no safeguard is out unless MUTANT says so.
test-loom: | tools ## the engine's algorithms under a model checker
	@echo "==> model checking (loom)"
	export RUSTFLAGS="--cfg lean --cfg mutants --cfg modelled --cfg loom" CARGO_TARGET_DIR=target/loom
	timeout $(PATIENCE) cargo test --locked --profile suites -p hypern-shm-core --test loom --test loom_doorbell -- -q | $(COUNTED)

test-shuttle: | tools ## the same with more threads and steps, in random interleavings: SEED= and ROUNDS= choose
	@echo "==> random interleavings (shuttle)"
	export RUSTFLAGS="--cfg lean --cfg mutants --cfg modelled --cfg shuttle" CARGO_TARGET_DIR=target/shuttle
	timeout $(PATIENCE) cargo test --locked --profile suites -p hypern-shm-core --test shuttle -- --show-output | $(COUNTED)

test-crash: | tools ## one process killed, and stopped, at every crash point of the engine: SEED= and POINT= choose
	@echo "==> crash points"
	export RUSTFLAGS="--cfg lean --cfg mutants --cfg crash_points" CARGO_TARGET_DIR=target/crash
	timeout $(PATIENCE) cargo test --locked --profile suites -p hypern-shm-core --test crash -- --nocapture | $(COUNTED)

test-mutants: | tools ## one safeguard out of the engine at a time: a checker must miss it
	@echo "==> mutants"
	PATIENCE=$(PATIENCE) .ci/mutants

# The sanitizer is not stable yet: RUSTC_BOOTSTRAP lets this build, and no other, use it.
test-threads: export RUSTC_BOOTSTRAP := 1
test-threads: | tools ## threads of one process under ThreadSanitizer
	@echo "==> ThreadSanitizer"
	export RUSTFLAGS="--cfg lean -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR=target/tsan
	export TSAN_OPTIONS="suppressions=$(CURDIR)/.ci/tsan"
	timeout $(PATIENCE) cargo test --locked --profile suites -p hypern-shm-core --test threads --target "$$(rustc --print host-tuple)"

test-python: $(VENV)/.engine $(VENV)/.test ## real processes, real servers, a real browser
	@.ci/need strace=strace tmux=tmux
	.ci/need chromium=chromium || echo "==> going on without: the tests that need a browser are skipped"
	echo "==> Python tests, $(XDIST) at a time"
	$(BIN)/python -m pytest -q -n $(XDIST)

test-pythons: $(VENV)/.engine ## the Python tests, servers left out, on other Pythons: one wheel for PYTHONS="3.10 3.12 3.13"
	@.ci/pythons "$(PYTHONS)" -n $(XDIST) tests --ignore tests/servers

bench-check: | tools ## the engine's calls in instructions, against the committed baseline
	@.ci/need valgrind=valgrind
	echo "==> instruction counts"
	timeout $(PATIENCE) $(PYTHON) -m bench.counts

bench-baseline: | tools ## count anew what bench-check compares with
	@.ci/need valgrind=valgrind
	$(PYTHON) -m bench.counts --renew

bench: $(VENV)/.engine $(VENV)/.bench ## benchmarks, as ratios of one run, into bench/results: BENCH=calls for one of them
	@.ci/need valgrind=valgrind redis-server=redis-server nats-server=nats-server
	$(BIN)/python -m bench $(BENCH)

fuzz: | tools ## damaged segments: random bytes on a live one, then coverage-guided attaching to ruins: FUZZ=600 for ten minutes each
	@echo "==> a rain of bytes, $(FUZZ) s"
	RAIN=$(FUZZ) cargo test --locked -p hypern-shm-core --test corrupt a_live_segment -- --nocapture | $(COUNTED)
	echo "==> attaching to ruins, guided by coverage, $(FUZZ) s"
	.ci/fuzz $(FUZZ)

soak: $(VENV)/.engine $(VENV)/.test ## kills and stops at random under load: SOAK=3600 for an hour
	@echo "==> soak, $(SOAK) s"
	$(BIN)/python -m tests.soak --seconds $(SOAK)

load: $(VENV)/.engine $(VENV)/.test ## 64 processes, 10,000 channels, 100,000 members, mixed traffic: LOAD= seconds
	@echo "==> load, $(LOAD) s"
	$(BIN)/python -m tests.load --seconds $(LOAD)

churn: | tools ## 10 million members, clients, and 2 million channels, patterns come and go: CHURN= times 100,000
	@echo "==> churn"
	CHURN=$(CHURN) cargo test --locked --release -p hypern-shm-core --test churn -- --nocapture | $(COUNTED)

# ---- and away with it

clean: ## remove everything that was built or installed here
	rm -rf $(VENV) target hypern_realtime_shm/*.so .mypy_cache .ruff_cache .pytest_cache
