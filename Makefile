# The commands of this project. `make test` and `make demo` are all that a newcomer needs.

# Which tiers `make test` runs. T0: pure and in-memory, on any machine with Rust. T1: a real control plane with a fake
# node. T2: the chart with only its rights, packaging, outages. A tier that can't run makes it fail, unless it is left
# out on purpose: TIERS=T0. What they need is checked before they start: all of them Rust and a C compiler, T1 and T2 Go,
# T2 also Python 3 with venv and Node.js with npm. No test needs Docker.
TIERS ?= T0 T1 T2

# Where cargo puts what it builds. The workspace is always built as a whole: a part of it alone would be built anew with
# other features.
BUILT = $(or $(CARGO_TARGET_DIR),target)/debug

.PHONY: help test lint deny demo bench generate assets image

help: ## Says what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

test: ## Checks format, lints and crates, then runs the tiers of tests: TIERS="T0 T1 T2"
	@TIERS="$(TIERS)" scripts/test.sh

lint: ## Checks format and lints
	@scripts/test.sh lint

deny: ## Checks the crates' licences, sources and advisories
	@scripts/deny.sh

assets: ## Finds or builds the control plane and helm for tests (10 minutes the first time)
	cargo build --locked --workspace
	$(BUILT)/kube-assets --helm

demo: ## Tells the whole story on a control plane of its own; KEEP=1 keeps it up
	@echo "Shipbell's demo: 40 seconds once all is built; on two cores the first build takes about 9 minutes."
	@KEEP="$(KEEP)" scripts/demo.sh

bench: ## Measures speed and memory beside a stock watcher, in one run
	scripts/bench.sh

generate: ## Generates what is generated: CRDs, the chart's copy of them, golden files, the chart's defaults and the install file (by helm)
	UPDATE_EXPECT=1 cargo test --locked --quiet --lib
	cargo build --locked --workspace
	$(BUILT)/kube-assets --helm
	UPDATE_EXPECT=1 cargo test --locked --quiet --workspace --test package the_defaults_in_the_templates
	UPDATE_EXPECT=1 cargo test --locked --quiet --workspace --test package the_install_file_is

image: ## Builds the image: IMAGE=registry.example.com/shipbell:0.1.0
	docker build --tag "$(IMAGE)" .
