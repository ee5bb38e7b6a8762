# Everything runs in its own virtual environment; what is missing gets installed first.
#   make demo    the whole pipeline on procedural data, four to ten minutes on two cores
#   make test    every test
#   make check   formatting, lint and types
#   make bench   ratios against other libraries
#   make gpu     what a CUDA machine should show, in parts: make gpu lists them, make gpu PART=1 runs one
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install demo test check bench gpu docs lock clean

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The pinned build. On Linux the public index serves it with CUDA, which downloads gigabytes. For a machine without a GPU:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BIN := $(VENV)/bin
# Test processes: as many as keep the processors busy with OMP_NUM_THREADS threads each, one by default.
JOBS ?= auto

help:
	@sed -n 's/^#   //p' Makefile

install: $(VENV)/.core

$(VENV)/.core: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)" $(addprefix --index-url ,$(TORCH_INDEX))
	grep -v '^torch==' requirements.lock > $(VENV)/constraints.txt
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt -e '.[bench]'
	touch $@

demo: $(VENV)/.core
	@echo "The demo takes 6 to 10 minutes on two CPU cores with AVX2 or AVX-512, about 20 without."
	$(MAKE) --no-print-directory -C examples/lidc-nodule MEDGEN="$(abspath $(BIN))/medgen" OUT="$(CURDIR)/demo" all

test: $(VENV)/.test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.core
	$(BIN)/python tests/docs.py

gpu: $(VENV)/.bench
	$(BIN)/python -m tests.gpu $(PART)

bench: $(VENV)/.bench
	$(BIN)/python -m tests.bench

lock: $(VENV)/.dev $(VENV)/.bench
	{ head -n 1 requirements.lock; $(BIN)/pip freeze --exclude-editable --exclude medgen | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis
