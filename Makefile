# The commands of this workspace. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := shared comfy-balancer comfy-service
SIDE_BY_SIDE := test/unit test/simulator test/integration test/model

.DEFAULT_GOAL := help
.PHONY: help install lock lint types test faults soak demo up down bench

help: ## List the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/installed: requirements-dev.lock $(addsuffix /pyproject.toml,$(PACKAGES)) test/install_redis.py
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@$(BIN)/python test/install_redis.py
	@touch $@

install: $(VENV)/installed ## Make the virtual environment, with redis-server where the machine has none

lock: install ## Pin every dependency again, with hashes, within the ranges of the pyproject files
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--no-emit-package comfy-shared $(addsuffix /pyproject.toml,$(PACKAGES)) -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--no-emit-package comfy-shared --group dev -c requirements.lock $(addsuffix /pyproject.toml,$(PACKAGES)) -o requirements-dev.lock
	@grep -o 'comfyui-frontend-package[^"]*' comfy-balancer/pyproject.toml | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --no-deps - -o requirements-frontend.lock

lint: install ## ruff (rules and format) and import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: install ## mypy --strict
	@$(BIN)/mypy

test: install ## All tests; COMFYUI_URL=http://host:8188 adds the real ComfyUI to the contract suite
	@status=0; \
	echo "== side by side: $(SIDE_BY_SIDE)"; $(BIN)/pytest -n 3 --dist loadfile $(SIDE_BY_SIDE) || status=1; \
	echo "== one by one: whole systems"; $(BIN)/pytest $(addprefix --ignore=,$(SIDE_BY_SIDE)) || status=1; \
	exit $$status

faults: install ## Every fault, long forms too, and their table (25 min); COMFYUI_COMMAND='… {port}' adds real ComfyUIs
	@$(BIN)/python -m test.faults

soak: install ## The queue model with 20,000 examples, then 30 min of load and faults (COMFY_SOAK_MINUTES)
	@COMFY_SOAK_EXAMPLES=$${COMFY_SOAK_EXAMPLES:-20000} $(BIN)/pytest test/model --timeout 0
	@COMFY_SOAK_MINUTES=$${COMFY_SOAK_MINUTES:-30} $(BIN)/python -m test.faults -k f26

demo: install ## One picture, end to end, with progress; COMFYUI_URLS=http://a:8188,http://b:8188 for real ones
	@$(BIN)/python -m test.demo

up: install ## The same system, kept running; prints addresses and log-in
	@$(BIN)/python -m test.demo up

down: ## Stop what `make up` started
	@$(BIN)/python -m test.demo down

bench: install ## Benchmarks, each beside a baseline of the same run
	@$(BIN)/python -m test.bench
