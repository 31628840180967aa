# Each installs what it needs; see scripts/setup.
.PHONY: demo test soak bench dist

demo:
	@scripts/setup demo
	cargo build --release --locked
	target/release/replgate demo

test:
	@scripts/setup test
	cargo test --locked -- --test-threads=4

soak:
	@scripts/setup test
	cargo test --locked --release --test soak -- --ignored --test-threads=1

bench:
	@scripts/setup bench
	cargo bench --locked --bench pair

dist:
	scripts/package target/dist
