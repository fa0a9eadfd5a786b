# Needs Debian's packages and a Rust; `make setup` gets the first and says how to get the second.

SHELL := /bin/sh
PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PATH

.DEFAULT_GOAL := help
.PHONY: help setup build demo run test test-kernel compliance distro bench deny manual

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## install what building and testing need
	@packaging/setup

build: ## target/release/portsentry
	@packaging/setup --build-only
	cargo build --release --locked

demo: build ## a scan, a ban and an unban in two network namespaces; leaves no trace on this host
	tests/demo target/release/portsentry

run: build ## run it on this host in the foreground, with config/portsentry.toml; ^C stops it
	target/release/portsentry -c config/portsentry.toml run

test: setup ## everything: format, lints, documentation, unit tests, tests in network namespaces (as root)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
	tests/compliance/fetch
	cargo test --locked

test-kernel: ## what speaks to nf_tables, on Debian's kernels 6.1 and 6.12, in qemu: four minutes (as root)
	@packaging/setup --kernels
	tests/kernel/run

compliance: setup ## 1.2's behaviour, the original's and ours, case by case; prints the table (as root)
	tests/compliance/fetch
	PORTSENTRY=both cargo test --locked --test compliance

distro: ## in a booted Debian 12 and 13: units, sandbox, journal, reload, reboot (as root; needs Debian's packages)
	@packaging/setup --distro
	tests/distro/roots
	cargo test --locked --test distro

bench: setup ## measure, and print the figures: from probe to drop, replay, memory, size (as root)
	cargo bench --locked --bench figures --bench responders

deny: ## licences, sources and advisories of what we depend on (needs cargo-deny)
	cargo deny check

manual: ## write packaging/man and packaging/completions anew, after a flag or a key has changed
	PORTSENTRY_MANUAL=write cargo test --locked --test manual
