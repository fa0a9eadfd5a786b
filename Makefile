# Needs Debian's packages and a Rust; `make setup` gets the first and says how to get the second.

SHELL := /bin/sh
PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PATH

.DEFAULT_GOAL := help
.PHONY: help setup build install deb rpm demo run test test-kernel compliance distro bench bench-micro deny manual

# Where `make install` puts things: below DESTDIR, which is not part of their names.
PREFIX ?= /usr/local
DESTDIR ?=
PROGRAM := $(or $(CARGO_TARGET_DIR),target)/release/portsentry
ETC := $(DESTDIR)/etc
SHARE := $(DESTDIR)$(PREFIX)/share
# Where zsh looks for completions.
ZSH ?= $(PREFIX)/share/zsh/site-functions
LIB := $(DESTDIR)$(PREFIX)/lib

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## install what building and testing need
	@packaging/setup

build: ## target/release/portsentry
	@packaging/setup --build-only
	cargo build --release --locked

install: ## what `make build` has made and all that goes with it, to PREFIX (/usr/local) below DESTDIR; keeps a configuration
	@test -x $(PROGRAM) || { echo 'make install: $(PROGRAM) is missing: run make build first' >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/sbin/portsentry
	install -D -m 644 -t $(SHARE)/portsentry nft/portsentry.nft nft/own-rules.nft config/portsentry.toml config/ignore.list
	install -D -m 644 -t $(SHARE)/doc/portsentry-nft packaging/licences.txt
	install -D -m 644 -t $(SHARE)/portsentry/drop-ins packaging/systemd/examples/*.conf
	install -D -m 644 -t $(SHARE)/man/man8 packaging/man/*.8
	install -D -m 644 -t $(SHARE)/man/man5 packaging/man/*.5
	install -D -m 644 packaging/completions/portsentry.bash $(SHARE)/bash-completion/completions/portsentry
	install -D -m 644 -t $(DESTDIR)$(ZSH) packaging/completions/_portsentry
	install -D -m 644 -t $(SHARE)/fish/vendor_completions.d packaging/completions/portsentry.fish
	install -D -m 644 packaging/systemd/portsentry-nft.sysusers $(LIB)/sysusers.d/portsentry-nft.conf
	install -D -m 644 -t $(LIB)/systemd/system packaging/systemd/portsentry-nft.service
	sed -i 's|=/usr/sbin/|=$(PREFIX)/sbin/|' $(LIB)/systemd/system/portsentry-nft.service
	install -D -m 644 packaging/portsentry-nft.logrotate $(ETC)/logrotate.d/portsentry-nft
	for file in portsentry.toml ignore.list; do \
		test -e $(ETC)/portsentry/$$file || install -D -m 644 -t $(ETC)/portsentry config/$$file || exit 1; \
	done

deb: ## target/deb/portsentry-nft_*.deb, for the Debian that it is built on and newer ones; lintian looks at it
	@packaging/setup --deb
	packaging/deb

rpm: ## target/rpm/portsentry-nft-*.rpm; rpmlint looks at it
	@packaging/setup --rpm
	packaging/rpm/build

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

distro: ## in a booted Debian 12 and 13: package, units, sandbox, journal, reload, reboot (as root; needs Debian's packages)
	@packaging/setup --distro
	packaging/deb
	packaging/rpm/build
	tests/distro/roots
	rm -f target/distro/figures
	cargo test --locked --test distro
	@sort -V target/distro/figures

bench: setup ## measure, beside 1.2, fail2ban and the bare kernel; prints tables, and target/bench.json (as root); QUICK=1: whether it can be
	-tests/compliance/fetch
	command -v valgrind >/dev/null || echo 'bench: no valgrind: instructions will be missing' >&2
	cargo bench --locked --bench figures --bench micro --no-run
	nice -n -10 cargo bench --locked --bench figures

bench-micro: ## the steps of a probe's trip, by themselves; benches/instructions counts what they take
	cargo bench --locked --bench micro

deny: ## licences, sources and advisories of what we depend on (needs cargo-deny)
	cargo deny check

manual: ## write packaging/man, packaging/completions and packaging/licences.txt anew, after a flag, a key or a library has changed
	PORTSENTRY_MANUAL=write cargo test --locked --test manual
