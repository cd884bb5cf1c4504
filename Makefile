# `make help` lists the targets. `make test` is everything CI runs.
CARGO ?= cargo
export CLIPPY_CONF_DIR := $(CURDIR)/etc
FMT_FLAGS := -- --config-path etc/rustfmt.toml

.PHONY: help need build test check clean
help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/' | sort
need: ## say what is needed beyond Rust, and install it when root
	@sh etc/need.sh
build: need ## release build
	$(CARGO) build --release --locked --workspace
test: need ## formatting, lints, documentation and all tests: everything CI runs
	$(CARGO) fmt --all --check $(FMT_FLAGS)
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items --lib
	$(CARGO) test --locked --workspace
check: test ## the same as test
clean: ## remove what the build made
	$(CARGO) clean
