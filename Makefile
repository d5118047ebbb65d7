# One command per job; CONTRIBUTING.md describes each. Safe to repeat: what is installed or built stays as it is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build test test-long test-asan test-tsan test-peers gpu fuzz demo install format tidy clean help

PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TEST_JOBS ?= 2
FUZZ_SECONDS ?= 30

setup := tools/setup/install.sh
configure = [ -f build/$(1)/build.ninja ] || cmake --preset $(1)
compile = cmake --build build/$(1) -j $(JOBS)
# Quiet on success, the output of a failing test in full, and ctest's closing lines last.
run_tests = ctest --test-dir build/$(1) --output-on-failure --no-tests=error -j $(TEST_JOBS)

build: ## install what the build needs, build build/release/rorqual
	@$(setup) build
	@$(call configure,release)
	@$(call compile,release) --target rorqual

test: ## install, build everything, run every test but the long ones
	@$(setup) build
	@$(call configure,release)
	@$(call compile,release)
	@$(call run_tests,release) -LE long

test-long: ## the long tests that `make test` leaves out
	@$(setup) build
	@$(call configure,release)
	@$(call compile,release)
	@$(call run_tests,release) -L long

test-asan: ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(setup) build
	@$(call configure,asan)
	@$(call compile,asan)
	@$(call run_tests,asan) -LE long

test-tsan: ## the tests under ThreadSanitizer
	@$(setup) build
	@$(call configure,tsan)
	@$(call compile,tsan)
	@$(call run_tests,tsan) -LE long

test-peers: build ## compare with PyTorch, transformers and tokenizers, in a Python environment of their own
	@$(setup) peers
	@tools/setup/python_environment.sh build/peers tools/reference/requirements.txt
	@failed=; for check in tools/reference/check_*.py; do \
	  echo "== $$check" >&2; build/peers/bin/python "$$check" || failed+=" $$check"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

gpu: ## test and measure the CUDA kernels on a Hopper GPU (results in build/gpu)
	@command -v nvcc >/dev/null || { echo "make gpu: nvcc of CUDA 13 is not there (docs/gpu.md)" >&2; exit 2; }
	@$(setup) build
	@$(call configure,cuda-sm90a)
	@$(call compile,cuda-sm90a) --target hopper_test hopper_bench
	@tools/gpu/run.sh -b build/cuda-sm90a -o build/gpu

fuzz: ## run each fuzz target for FUZZ_SECONDS (30)
	@$(setup) build fuzz
	@$(call configure,fuzz)
	@$(call compile,fuzz) --target fuzz_targets
	@tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS)

demo: build ## train the recipe `tiny` on the Linux kernel documentation and compare it with zstd and xz
	@$(setup) demo
	@tools/demo/demo.sh

install: build ## program, recipes, manual page and completion below PREFIX (/usr/local)
	@tools/setup/install_program.sh build/release/rorqual "$(DESTDIR)$(PREFIX)"

format: ## format the sources by .clang-format
	@$(setup) format
	@find src tests bench \( -name '*.cc' -o -name '*.h' -o -name '*.cu' \) -print0 | xargs -0r clang-format -i

tidy: ## the checks of .clang-tidy over every source
	@$(setup) build tidy
	@$(call configure,release)
	@find src tests \( -name '*.cc' \) -print0 | xargs -0rn1 -P $(JOBS) clang-tidy -p build/release --quiet

clean: ## remove everything built
	@rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
