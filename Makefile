# Everything is built, tested and shown from here; each target does its own set-up (see scripts/setup.sh).
#
#   make demo            starts the whole chain on loopback, makes real calls, explains each hop, stays up
#   make demo ONCE=1     the same, then exits: 0, or not 0 with the hop that failed
#   make test            every check and every test
#   make bench           all benchmarks; results in bench/results
#   make bench-NAME      one of them
#   make fuzz            twenty seconds of random token replies (FUZZ_SECONDS=600 for longer); not part of make test
#   make lint            formatting, clippy, licences and sources
#   make docs            the manual, as HTML below build/docs
#   make clean           removes what was built

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help demo test fuzz bench lint fmt docs clean jar-host release tests cloud-tests clippy deny-check

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
	@$(SETUP) cc rustfmt clippy java node nextest deny moto
	@$(MAKE) --no-print-directory jar-host
	cargo fmt --all --check
	@$(MAKE) --no-print-directory deny-check
	@$(MAKE) --no-print-directory clippy tests cloud-tests

tests:
	cargo build --locked --workspace --bins
	cargo nextest run --locked --workspace --profile default --retries 0 --no-fail-fast
	cargo test --locked --workspace --doc --quiet

# The resolvers for the clouds' own vaults: cargo features that are off otherwise, so that nobody else waits for the
# vendors' SDKs to be built.
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

# The second line is the MID Server as it is shipped: without anything of the instance.
clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p midward-cli --no-default-features --features mid --bin midward-mid -- -D warnings

# Advisories are left out: they need a database from the network, so the result could change without a change here.
deny-check:
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

fmt:
	@$(SETUP) rustfmt
	cargo fmt --all

# libFuzzer without cargo-fuzz: the instrumentation is flags of the stable compiler's.
FUZZ_SECONDS ?= 20
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

fuzz:
	@$(SETUP) cc
	mkdir -p build/fuzz-corpus
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo run --release --target x86_64-unknown-linux-gnu \
		--target-dir $(CURDIR)/target/fuzz --bin token_reply -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
		$(CURDIR)/build/fuzz-corpus

bench: bench-all

bench-%:
	@$(SETUP) cc java
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
