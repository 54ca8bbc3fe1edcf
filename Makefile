# `make run` and `make test` are all that a newcomer needs; both set up `.venv` first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup run test lint bench docs lock clean

setup: $(STAMP)

# pip compiles the bytecode of what it installs; the checkout's own is compiled here.
$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --compile \
		-r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	$(BIN)/python -m compileall -q mlx_stdio
	touch $@

run: setup
	$(BIN)/python examples/hello.py

test: setup
	$(BIN)/python -m pytest
	cd clients/go && go vet ./... && go test ./...

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.reference --check

docs: setup
	$(BIN)/python -m tools.reference

# Under 15 minutes on 2 cores. `make bench BENCH='--write docs/performance.md'` keeps the figures.
bench: setup
	$(BIN)/python -m bench $(BENCH)

# Needs `uv` on the PATH. Hashes without index addresses, for all platforms at once.
lock:
	uv pip compile pyproject.toml --extra cpu --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		-o requirements/dev.txt

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
