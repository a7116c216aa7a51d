# Everything a person types. `make demo` and `make test` set up what they need themselves.

# A scenario of the demo: make demo S=neighbours
S ?= neighbours
CARGO ?= cargo

# rustc-web's cargo and the lab's nested builds must not inherit a caller's directories.
unexport CARGO_TARGET_DIR

# Benches by name: make bench B="calls messages"; all of them without.
B ?=

.PHONY: help setup build man packages demo bench figures test test-quick test-lab test-faults test-packages lint fuzz clean

help:
	@echo "make demo        a VM saves itself from noisy neighbours (needs root; < 5 min after building)"
	@echo "                 S=notice, S=random, S=plugin, S=geo or S=encrypted: other scenarios"
	@echo "make test        every test, on real libvirt hosts and guests (needs root; about 40 min)"
	@echo "make bench       measures what is promised, into target/bench (needs root; about 65 min on a quiet machine)"
	@echo "make figures     the paper's Figures 3 and 4, from what 'make bench B=encrypted' measured, else after measuring it (25 min)"
	@echo "make test-quick  the tests that need no root and no VM"
	@echo "make test-faults every row of the fault table, of which make test plays a sample (needs root; about 30 min)"
	@echo "make lint        rustfmt and clippy"
	@echo "make build       the programs, into target/release"
	@echo "make man         the manual pages, into target/man (man -l target/man/comsctl.8)"
	@echo "make packages    .deb and .rpm of all programs, checksums, bills of materials, into target/packages (needs root)"
	@echo "make test-packages  installs them, the way people do, on hosts and in guests of its own (needs root; about 20 min)"
	@echo "make fuzz        search the wire for a crash (needs cargo-fuzz and a nightly toolchain); TARGET=perfdata, plugin_line,"
	@echo "                 metrics or statsd: what plugins say"

setup:
	@bash tests/setup.sh

build: setup
	$(CARGO) build --release -p coms-broker -p coms-agent -p coms-plugins

man:
	$(CARGO) run --quiet -p coms-man -- target/man

packages:
	@bash tests/setup.sh packages
	@bash packaging/make-packages.sh

demo:
	@bash tests/setup.sh $(if $(filter plugin,$(S)),services)
	$(CARGO) run --quiet --release -p coms-story --bin coms-demo -- $(S)

bench:
	@bash tests/setup.sh bench
	$(CARGO) run --quiet --release -p coms-bench -- $(B)

# Into target/figures.
figures:
	@bash tests/setup.sh bench
	$(CARGO) run --quiet --release -p coms-bench -- figures

test: setup test-quick test-lab

test-quick:
	$(CARGO) test --workspace --exclude coms-lab --exclude coms-story --exclude coms-packages

# Which labs have the machine's CPUs to themselves, and which are played three at a time: tests/run-labs.sh.
test-lab:
	@bash tests/setup.sh services
	CARGO="$(CARGO)" bash tests/run-labs.sh

# Every row of the fault table, into target/faults/table.md. FAULTS="operator,copying" picks
# rows by words of their names, FAULTS=3,10-19 by their places, FAULTS=open those that have not held yet.
test-faults: setup
	COMS_FAULTS="$${FAULTS:-all}" $(CARGO) test -p coms-story --test fault_table -- --nocapture

# The packages as they would be given away, and, to upgrade from, an older commit's (tests/packages/previous.sh).
test-packages:
	@bash tests/setup.sh test-packages
	@bash packaging/make-packages.sh
	@bash tests/packages/previous.sh
	$(CARGO) test -p coms-packages -- --test-threads=1

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fuzz:
	$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $${TARGET:-session_receive} -- -max_total_time=$${SECONDS_TO_FUZZ:-300}

clean:
	$(CARGO) clean
