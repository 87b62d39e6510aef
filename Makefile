# The commands of this project. `make test` and `make demo` are all that a newcomer needs.

# Which tiers `make test` runs. T0: pure and in-memory, on any machine with Rust. T1: a real control plane with a fake
# node. T2: the chart with only its rights, packaging, outages. A tier that can't run makes it fail, unless it is left
# out on purpose: TIERS=T0. What they need is checked before they start: all of them Rust and a C compiler, T1 and T2 Go,
# T2 also Python 3 with venv and Node.js with npm. No test needs Docker.
TIERS ?= T0 T1 T2

# Where cargo puts what it builds. The workspace is always built as a whole: a part of it alone would be built anew with
# other features.
BUILT = $(or $(CARGO_TARGET_DIR),target)/debug

# The tests of properties of all that reads texts from outside: of requests, answers, Secrets and the cluster's objects. How
# often they try is 1,000 in `make test`, else what PROPTEST_CASES says.
READERS = web::properties http::response::tests::no_answer http::response::tests::retry_after_is \
	http::address_guard::tests http::destination::tests::any_value api::user_time api::duration \
	api::cut_to_schema cluster::workload::tests::every_pod cluster::list_page::tests cluster::decode \
	cluster::image::tests::any_image simulation::hostile::each_object simulation::hostile::nothing_that_a_cluster_holds \
	simulation::hostile_texts::whatever_texts simulation::hostile_log::whatever_a_log \
	simulation::delivery::properties::whatever_a_setting snapshot::retention::tests::every_length leader::lease::tests::whatever_a_record http::certificates::tests::whatever_a_bundle delivery::replay::tests::any_value

.PHONY: help test lint deny demo bench properties generate assets image

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

properties: ## Tries all that reads texts from outside with 100,000 random texts each; PROPTEST_CASES=N with others
	PROPTEST_CASES=$(or $(PROPTEST_CASES),100000) cargo test --locked --profile properties --lib -- $(READERS)

generate: ## Generates what is generated: CRDs, the chart's copy of them, golden files, the chart's defaults and the install file (by helm)
	UPDATE_EXPECT=1 cargo test --locked --quiet --lib
	cargo build --locked --workspace
	$(BUILT)/kube-assets --helm
	UPDATE_EXPECT=1 cargo test --locked --quiet --workspace --test package the_defaults_in_the_templates
	UPDATE_EXPECT=1 cargo test --locked --quiet --workspace --test package the_install_file_is

image: ## Builds the image: IMAGE=registry.example.com/shipbell:0.1.0
	docker build --tag "$(IMAGE)" .
