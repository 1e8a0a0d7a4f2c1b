# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, which `make setup` builds from pinned, hashed wheels.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
STAMP := .venv/.setup-stamp
COMPILE := uv pip compile --quiet pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --custom-compile-command "make lock"

.PHONY: help setup demo tools test lint bench proto crds lock

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## build .venv with everything that the other targets need

demo: setup ## a minute of real traffic at three times the limit, with and without Sluicegate
	$(BIN)/sluicegate demo

tools: setup ## the programs of a real Kubernetes for the tests, built once into the user's cache
	$(BIN)/python -m tests.cluster.toolchain etcd helm kube-apiserver kubectl

test: setup lint tools ## lint, then the whole test suite with branch coverage
	$(BIN)/coverage erase
	$(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=85

lint: setup ## style, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup ## the benchmark programs of tests/bench
	for program in tests/bench/[!_]*.py; do echo "== $$program"; $(BIN)/python "$$program"; done

proto: setup ## generate proto/gen from proto/sluicegate/v1/*.proto
	$(BIN)/python tests/meta/protos.py

crds: setup ## generate the chart's CustomResourceDefinitions from the schema
	$(BIN)/python -m tests.meta.crds

lock: ## pin the newest allowed versions in requirements/ (needs uv)
	$(COMPILE) --upgrade --output-file requirements/run.txt
	$(COMPILE) --upgrade --group dev --constraint requirements/run.txt --output-file requirements/dev.txt

# The first of these that is at least 3.11; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)

$(STAMP): requirements/dev.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "Sluicegate needs Python 3.11 or later, and none is on the PATH." >&2; \
		echo "Install it (Debian 12 and later: apt-get install python3 python3-venv), or say make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		package="python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy "$$package"; \
		else \
			echo "$(PYTHON) cannot make virtual environments. As root: apt-get install $$package" >&2; \
			exit 1; \
		fi; \
	fi
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
