# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, which `make setup` builds from pinned, hashed wheels.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
STAMP := .venv/.setup-stamp
comma := ,
LOCK := uv pip compile --quiet pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --custom-compile-command "make lock"

# `make images`: docker, podman or buildah, whichever is there. BUILD_FLAGS go to `build`, as --build-arg would.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= sluicegate/sluicegate:$(VERSION)
BASE_IMAGE ?= python:3.13-slim
BUILDER ?= $(shell for builder in docker podman buildah; do command -v $$builder && break; done)
PIP_CONF ?= $(firstword $(wildcard $(HOME)/.config/pip/pip.conf $(HOME)/.pip/pip.conf /etc/pip.conf))
PIP_CERT ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)

# Uncaptured, for its figures and for what it builds.
CLUSTER = $(BIN)/pytest tests/cluster -p no:xdist --capture=no

.PHONY: help setup demo tools images compiled test test-cluster lint bench proto crds lock

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## build .venv with everything that the other targets need

demo: setup ## some minutes of real traffic at three times the limit, with and without Sluicegate
	$(BIN)/sluicegate demo

tools: setup ## the programs of a real Kubernetes for the tests, built once into the user's cache
	$(BIN)/python -m tests.cluster.toolchain etcd helm kube-apiserver kubectl

images: ## build the image of all parts: IMAGE, BASE_IMAGE, BUILDER=docker|podman|buildah
	@if [ -z "$(BUILDER)" ]; then echo "make images needs docker, podman or buildah" >&2; exit 1; fi
	$(BUILDER) build --file Dockerfile --build-arg BASE_IMAGE=$(BASE_IMAGE) $(if $(PIP_CONF),--secret id=pip-conf$(comma)src=$(PIP_CONF)) \
		$(if $(PIP_CERT),--secret id=ca$(comma)src=$(PIP_CERT)) $(BUILD_FLAGS) --tag $(IMAGE) .

COMPILED := build/compiled/.stamp
compiled: $(COMPILED) ## the package as the image has it, the broker's core compiled, into build/compiled

test-cluster: setup ## a real one-node cluster of this machine's own: helm install, apps, failures (root, Linux)
	SLUICEGATE_CLUSTER=required $(CLUSTER)

# SLUICEGATE_CLUSTER=required: no level may be left out.
test: setup lint tools compiled ## lint, the whole test suite with branch coverage, the compiled core, then a cluster where it can be
	$(BIN)/coverage erase
	$(BIN)/pytest -n 2 --dist loadgroup --ignore=tests/cluster --cov --cov-report=term:skip-covered --cov-fail-under=85
	PYTHONPATH=$(CURDIR)/build/compiled SLUICEGATE_COMPILED=1 $(BIN)/pytest -n 2 -q tests/core tests/property tests/fairness tests/scenarios tests/documents tests/broker tests/proxy
	$(CLUSTER)  # last, so that its word is the last where there can be none

lint: setup ## style, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup compiled ## the benchmark programs of tests/bench; fails at the end where one missed a bar
	export PYTHONPATH=$(CURDIR)/build/compiled; missed=; for program in tests/bench/[!_]*.py; do \
		echo "== $$program"; $(BIN)/python "$$program" || missed="$$missed $$program"; \
	done; if [ -n "$$missed" ]; then echo "missed a bar:$$missed" >&2; exit 1; fi

proto: setup ## generate proto/gen from proto/sluicegate/v1/*.proto
	$(BIN)/python tests/meta/protos.py

crds: setup ## generate the chart's CustomResourceDefinitions from the schema
	$(BIN)/python -m tests.meta.crds

lock: ## pin the newest allowed versions in requirements/ (needs uv)
	$(LOCK) --upgrade --output-file requirements/run.txt
	$(LOCK:--all-extras=--extra broker --extra sidecar --extra operator) --constraint requirements/run.txt \
		--output-file requirements/image.txt
	echo openai | $(subst pyproject.toml --all-extras,-,$(LOCK)) --constraint requirements/run.txt \
		--output-file tests/cluster/recipes/app.txt
	$(LOCK) --upgrade --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	$(subst pyproject.toml --all-extras,--group build,$(LOCK)) --constraint requirements/dev.txt \
		--output-file requirements/build.txt

$(COMPILED): $(STAMP) hatch_build.py $(shell find proto broker sidecar operator -name "*.py" -o -type d -not -name __pycache__)
	@if ! { command -v cc && $(BIN)/python -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'; } >/dev/null 2>&1; then \
		packages="gcc libc6-dev $$($(BIN)/python -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy $$packages; \
		else \
			echo "The compiled core needs a C compiler and Python's headers. As root: apt-get install $$packages" >&2; \
			exit 1; \
		fi; \
	fi
	rm -rf build/compiled build/wheel
	SLUICEGATE_COMPILE=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --no-index --target build/compiled build/wheel/*.whl
	touch $@

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
