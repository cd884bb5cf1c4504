# `make help` lists the targets. `make test` is everything CI runs.
CARGO ?= cargo
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
export CLIPPY_CONF_DIR := $(CURDIR)/etc
FMT_FLAGS := -- --config-path etc/rustfmt.toml
# The runner must start on any worker: no shared library. An explicit target keeps the flag away from procedural macros.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
STATIC := RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked --target $(HOST) -p muster-runner

.PHONY: help need build static moto test check demo bench simulate mutations install uninstall clean
help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/' | sort
NEEDED_FOR := build
need: ## say what is needed beyond Rust, and install it when root
	@sh etc/need.sh $(NEEDED_FOR)
build: need ## release build
	$(CARGO) build --release --locked
	$(STATIC) --release
	cp -f target/$(HOST)/release/muster-runner target/release/muster-runner
static: ## a debug build of the runner that needs no library, for its own test
	$(STATIC)
moto: ## a Python environment in target/ with the server that answers as EC2 does, for the tests
	@sh tests/ec2_cloud/venv.sh target/moto-venv tests/ec2_cloud/requirements.txt
test: ## formatting, lints, documentation and all tests: everything CI runs
	@sh etc/need.sh test
	@$(MAKE) --no-print-directory moto
	$(CARGO) fmt --all --check $(FMT_FLAGS)
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items --lib
	$(CARGO) build --locked --workspace --bins
	$(STATIC)
	$(CARGO) test --locked --workspace
check: test ## the same as test
demo: NEEDED_FOR := demo
demo: build ## the main job, for real, on this host and on hosts over SSH, in about a minute
	$(CARGO) build --release --locked --example demo
	target/release/examples/demo
bench: NEEDED_FOR := demo
bench: build ## figures of this version on this machine
	$(CARGO) build --release --locked --example bench
	target/release/examples/bench
SEEDS ?= 2000
SIMULATE := $(CARGO) build --quiet --release --locked -p muster-simulation && target/release/simulate
simulate: ## the decisions against simulated faults: SEEDS=2000, or one seed with its log: SEED=17
	@$(SIMULATE) $(if $(SEED),--seed $(SEED),$(SEEDS))
mutations: ## break rules, one after the other: the simulation must find each
	@tests/simulation/mutate.sh
# What is installed comes from here; tests install a debug build.
BUILD ?= target/release
PROGRAMS := $(BUILD)/muster $(BUILD)/muster-runner
BIN := $(DESTDIR)$(PREFIX)/bin
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/muster
MAN := $(DESTDIR)$(PREFIX)/share/man
SHARE := $(DESTDIR)$(PREFIX)/share
EXAMPLES := $(SHARE)/muster/examples
EXEC_CLOUDS := local-processes virsh
ETC := $(DESTDIR)$(SYSCONFDIR)

install: ## install what `make build` made: PREFIX=/usr/local, DESTDIR for packagers
	@for program in $(PROGRAMS); do test -x $$program || { echo "$$program is not there: run make build first" >&2; exit 1; }; done
	install -d $(BIN) $(LIBEXEC) $(MAN)/man1 $(MAN)/man8 $(ETC)/muster $(ETC)/logrotate.d $(ETC)/init.d
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(EXAMPLES)/exec-cloud
	install -m 755 $(BUILD)/muster $(BIN)/muster
	install -m 755 $(BUILD)/muster-runner $(LIBEXEC)/muster-runner
	install -m 755 $(EXEC_CLOUDS:%=etc/examples/exec-cloud/%) $(EXAMPLES)/exec-cloud
	install -m 644 etc/examples/exec-cloud/README.md $(EXAMPLES)/exec-cloud
	test -e $(ETC)/muster/config.yml || install -m 640 etc/config.yml $(ETC)/muster/config.yml
	install -m 644 etc/logrotate/muster $(ETC)/logrotate.d/muster
	sed 's|@PREFIX@|$(PREFIX)|' etc/systemd/muster.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/muster.service
	sed 's|@PREFIX@|$(PREFIX)|' etc/init.d/muster > $(ETC)/init.d/muster
	chmod 755 $(ETC)/init.d/muster
	$(BUILD)/muster generate man $(MAN)/man1
	install -m 644 etc/man/muster-runner.8 $(MAN)/man8/muster-runner.8
	$(BUILD)/muster generate completions $(SHARE)/muster.completions
	mv -f $(SHARE)/muster.completions/muster.bash $(SHARE)/bash-completion/completions/muster
	mv -f $(SHARE)/muster.completions/_muster $(SHARE)/zsh/site-functions/_muster
	mv -f $(SHARE)/muster.completions/muster.fish $(SHARE)/fish/vendor_completions.d/muster.fish
	rmdir $(SHARE)/muster.completions
uninstall: ## remove what `make install` installed, never configuration or state
	rm -f $(BIN)/muster $(LIBEXEC)/muster-runner $(MAN)/man8/muster-runner.8 $(MAN)/man1/muster.1 $(MAN)/man1/muster-*.1
	rm -f $(ETC)/logrotate.d/muster $(ETC)/init.d/muster $(DESTDIR)$(PREFIX)/lib/systemd/system/muster.service
	rm -f $(SHARE)/bash-completion/completions/muster $(SHARE)/zsh/site-functions/_muster
	rm -f $(SHARE)/fish/vendor_completions.d/muster.fish $(EXEC_CLOUDS:%=$(EXAMPLES)/exec-cloud/%) $(EXAMPLES)/exec-cloud/README.md
	for folder in $(EXAMPLES)/exec-cloud $(EXAMPLES) $(SHARE)/muster; do test ! -d $$folder || rmdir --ignore-fail-on-non-empty $$folder; done
	test ! -d $(LIBEXEC) || rmdir $(LIBEXEC)
clean: ## remove what the build made
	$(CARGO) clean
