# Each target installs the tools that it needs; see scripts/setup.
.PHONY: demo test soak bench scale fuzz dist

# Seconds for which `make fuzz` runs each of its targets.
FUZZ_SECONDS ?= 60

# Seed of each fuzz target; 0 takes another one each time.
FUZZ_SEED ?= 0

demo:
	@scripts/setup demo
	cargo build --release --locked
	target/release/replgate demo

test:
	@scripts/setup test
	cargo test --locked -- --test-threads=6

soak:
	@scripts/setup test
	cargo test --locked --release --test soak -- --ignored --test-threads=1

bench:
	@scripts/setup bench
	cargo bench --locked --bench replication
	cargo bench --locked --bench instructions

scale:
	@scripts/setup bench
	cargo bench --locked --bench scale

fuzz:
	@scripts/setup fuzz
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	for target in command conversation observer frame lane config pem; do \
	    mkdir -p fuzz/corpus/$$target && PATH="$$PWD/target/tools/bin:$$PATH" cargo fuzz run -s none $$target \
	        fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) \
	        -timeout=10 -rss_limit_mb=512 -verbosity=0 -print_final_stats=1 || exit 1; \
	done

dist:
	scripts/package target/dist
