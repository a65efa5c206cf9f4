# Each target calls one script or one cargo command; scripts do their own set-up.
.PHONY: demo test interop bench setup
setup: ; @scripts/setup
demo: ; @scripts/demo
test: ; @scripts/test
interop: ; @scripts/interop
bench: ; @scripts/bench
