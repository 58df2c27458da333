# Everything is built, tested and shown from here; each target does its own set-up (see scripts/setup.sh).
#
#   make demo            starts the whole chain on loopback, makes real calls, explains each hop, stays up
#   make demo ONCE=1     the same, then exits: 0, or not 0 with the hop that failed
#   make test            every check and every test
#   make bench           all benchmarks; results in bench/results
#   make bench-NAME      one of them
#   make fuzz            twenty seconds of random token replies (FUZZ_SECONDS=600 for longer); part of make test
#   make soak            ten minutes of them, after as long of interleavings with a new seed (SOAK_SEED=N: that one), and
#                        a thousand kills of instances, MID Server and PostgreSQL (SOAK_KILLS=N), after each of which
#                        the rate has to be back within five seconds (one in ten is measured; SOAK_RECOVERY_MS=N)
#   make lint            formatting, clippy, licences and sources
#   make docs            the manual, as HTML below build/docs
#   make clean           removes what was built

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help demo test fuzz soak interleavings bench bench-tokens bench-queue lint fmt docs clean jar-host release tests cloud-tests clippy deny-check

# A Node.js of our own is there only when the system's is too old; cargo's tools may not be in a bare machine's PATH.
export PATH := $(CURDIR)/build/tools/node/bin:$(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export CARGO_TERM_PROGRESS_WHEN ?= never

SETUP := scripts/setup.sh
JARS := build/jar-host

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@$(SETUP) cc java
	@$(MAKE) --no-print-directory jar-host release
	target/release/midward-demo $(if $(ONCE),--once)

test:
	@$(SETUP) cc cxx rustfmt clippy java node postgres nextest deny moto openbao pyaim schemathesis otlp age
	@$(MAKE) --no-print-directory jar-host
	cargo fmt --all --check
	@$(MAKE) --no-print-directory deny-check
	@$(MAKE) --no-print-directory clippy tests cloud-tests fuzz

tests:
	cargo build --locked --workspace --bins
	cargo nextest run --locked --workspace --profile default --retries 0 --no-fail-fast
	cargo test --locked --workspace --doc --quiet
	@$(MAKE) --no-print-directory interleavings

# The token cache with shuttle in control of every lock, atomic and task; its feature changes no other crate.
INTERLEAVINGS := cargo nextest run --locked -p midward-oauth --features shuttle --test interleavings
interleavings:
	$(INTERLEAVINGS)

# The resolvers for the clouds' own vaults: cargo features that are off otherwise, so that nobody else waits for the
# vendors' SDKs to be built. On two shared cores: about 130 s the first time (clippy, build, tests) on top of what the
# other tests have built, 24 s when only our own code has changed.
CLOUDS := -p midward-resolvers --features aws,azure

cloud-tests:
	@$(SETUP) cc clippy nextest moto
	cargo clippy --locked $(CLOUDS) --all-targets -- -D warnings
	cargo nextest run --locked $(CLOUDS) --profile default --retries 0 --no-fail-fast \
		-E 'binary(aws) | binary(azure) | test(/^(aws|azure|cloud)::/)'

lint:
	@$(SETUP) cc rustfmt clippy deny
	cargo fmt --all --check
	@$(MAKE) --no-print-directory deny-check
	@$(MAKE) --no-print-directory clippy

# The second line is the MID Server as it is shipped: without anything of the instance. The third is the token cache as
# its interleavings are tested, the fourth the queue as it is measured.
clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p midward-cli --no-default-features --features mid --bin midward-mid -- -D warnings
	cargo clippy --locked -p midward-oauth --features shuttle --all-targets -- -D warnings
	cargo clippy --locked -p midward-instance --features bench --benches -- -D warnings

# Advisories are left out: they need a database from the network, so the result could change without a change here.
deny-check:
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

fmt:
	@$(SETUP) rustfmt
	cargo fmt --all

# libFuzzer without cargo-fuzz: the instrumentation is flags of the stable compiler's.
FUZZ_SECONDS ?= 20
FUZZ_SEED ?= 1
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

fuzz:
	@$(SETUP) cc cxx
	mkdir -p build/fuzz-corpus
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo run --release --target x86_64-unknown-linux-gnu \
		--target-dir $(CURDIR)/target/fuzz --bin token_reply -- -seed=$(FUZZ_SEED) \
		-max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
		$(CURDIR)/build/fuzz-corpus $(CURDIR)/crates/oauth/tests/token-replies

# Longer, with a seed of its own each time. It is printed: SOAK_SEED makes the same run again.
SOAK_SECONDS ?= 600
SOAK_ORDERS ?= 200000
SOAK_KILLS ?= 1000
SOAK_RECOVERY_MS ?= 5000
SOAK_SEED := $(or $(SOAK_SEED),$(shell date +%s))
soak:
	@$(SETUP) cc cxx java postgres nextest
	@$(MAKE) --no-print-directory jar-host
	@echo "soak: SOAK_SEED=$(SOAK_SEED) SOAK_ORDERS=$(SOAK_ORDERS) SOAK_SECONDS=$(SOAK_SECONDS) SOAK_KILLS=$(SOAK_KILLS)"
	MIDWARD_SEED=$(SOAK_SEED) MIDWARD_INTERLEAVINGS=$(SOAK_ORDERS) $(INTERLEAVINGS) --profile soak
	MIDWARD_SEED=$(SOAK_SEED) cargo nextest run --locked -p midward-oauth --profile soak --test engine \
		a_million_random_interleavings_mix_nothing_up
	cargo build --locked -p midward-cli -p midward-fakes --bins
	MIDWARD_SEED=$(SOAK_SEED) MIDWARD_KILLS=$(SOAK_KILLS) MIDWARD_RECOVERY_MS=$(SOAK_RECOVERY_MS) \
		cargo nextest run --locked -p midward-cli --profile soak --test e2e replicas_that_are_killed_at_random
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=$(SOAK_SECONDS) FUZZ_SEED=$(SOAK_SEED)

bench: bench-all bench-tokens bench-queue

# In a process of its own: no program is needed beside it.
bench-tokens:
	@$(SETUP) cc
	cargo build --locked --release -p midward-bench --bin midward-bench-tokens
	target/release/midward-bench-tokens

# The queue by itself, on SQLite and on PostgreSQL. QUEUE_HISTORY=N: with N finished requests in the database besides
# (below TMPDIR, about a kilobyte each; one database after the other).
bench-queue:
	@$(SETUP) cc postgres
	cargo bench --locked -p midward-instance --features bench --bench queue

bench-%:
	@$(SETUP) cc java postgres
	@$(MAKE) --no-print-directory jar-host release
	cargo build --locked --release -p midward-bench
	target/release/midward-bench $(filter-out all,$*)

docs:
	@$(SETUP) mdbook
	mdbook build docs --dest-dir $(CURDIR)/build/docs
	@echo "the manual: build/docs/index.html"

# The JAR host, our copies of the classes that resolver JARs expect, and the sample resolver; then a stand-in for
# CyberArk's JavaPasswordSDK.jar, for tests and demo only.
jar-host:
	@jar-host/build.sh $(JARS)
	@jar-host/build.sh $(JARS) fake-sdk

# What is shipped (midward, midward-mid) and what the demo needs beside it.
release:
	cargo build --locked --release -p midward-cli --no-default-features --features mid --bin midward-mid
	cargo build --locked --release -p midward-cli --bin midward
	cargo build --locked --release -p midward-fakes -p midward-demo --bins

clean:
	cargo clean
	rm -rf build
