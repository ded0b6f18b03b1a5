# The two commands of the README, and what they are made of.
# As cargo has it.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: up quick test build lint bench sweeps

up: ## set up what is missing, build, bring a cluster up
	@scripts/setup up
	cargo build --release --workspace
	@$(TARGET)/release/septet up

quick: ## the inner loop: lints and unit tests, without EC2, containers and other processes
	cargo clippy --workspace --exclude septet-ec2 --no-default-features --all-targets --quiet -- -D warnings
	cargo test --workspace --exclude septet-ec2 --no-default-features --lib --bins --quiet

test: ## everything that must hold, on a fresh machine too
	@scripts/setup test
	@scripts/test

build:
	cargo build --release --workspace

lint:
	cargo clippy --workspace --all-targets -- -D warnings

bench: ## first converge and no-op over seven hosts, beside a bare parallel ssh; brokers beside Apache Kafka's, coordinators beside ZooKeeper; a play over 1,000 hosts
	@scripts/setup test
	cargo build --release --workspace
	@scripts/bench
	@scripts/bench-broker
	@scripts/bench-coordinator
	@scripts/bench-fleet

sweeps: ## tests that cut off or refuse every single call to EC2; they take some twenty minutes
	@scripts/setup test
	cargo build --release --workspace
	SEPTET_SWEEPS=1 cargo test --release --test ec2_cluster -- --test-threads=2 faults:: kills:: permissions::
