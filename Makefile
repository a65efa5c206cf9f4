# Each target calls one script or one cargo command; scripts do their own set-up.
.PHONY: demo test lint soak simulate fuzz interop bench bench-full bench-micro setup
setup: ; @scripts/setup
demo: ; @scripts/demo
test: ; @scripts/test
# format, clippy, instructions per segment
lint: ; @scripts/lint
# 10 000 random scenarios in virtual time; SEEDS=n for another number
simulate: ; @scripts/simulate $(SEEDS)
# searches for inputs that break a fuzz target; SECONDS_IN_ALL=n, TARGETS="a b"
fuzz: ; @scripts/fuzz $(SECONDS_IN_ALL)
interop: ; @scripts/interop
# the long ones of CI: 10 000 scenarios, tables of goodput, a minute of search
soak: ; @scripts/soak
# beside the kernel and other stacks: under five minutes; in full: half an hour
bench: ; @scripts/bench
bench-full: ; @scripts/bench --full
# criterion's stages, then the cost per packet of 1 and 1,000 vservers in the lab
bench-micro: ; @scripts/setup && cargo bench --locked -p weft-micro && cargo run --release --quiet --locked -p weft -- lab --vservers 1000
