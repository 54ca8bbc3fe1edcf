# `make run` and `make test` are all that a newcomer needs; both set up `.venv` first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup run test test-go node lint lint-go bench docs lock lock-extra standalone clean

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

# Two files at a time: most tests wait for processes, and more would wait for each other. What fails is
# run once more without the rest, and counts only then: see CONTRIBUTING.md.
test: setup node
	$(BIN)/python -m pytest -n 2 --dist loadfile || \
		{ test $$? -eq 1 && echo "What failed, once more without the rest:" && $(BIN)/python -m pytest --last-failed; }
	$(MAKE) test-go

# With the race detector, which needs a C compiler; then with the Go release before the current one,
# where the module proxy has it.
GO_PREVIOUS ?= go1.25.14
RACE := $(if $(shell command -v gcc || command -v clang),-race)
test-go: setup
	cd clients/go && go test $(RACE) -count=1 ./...
	cd clients/go/thirdparty && go test -count=1 ./...
	@if GOTOOLCHAIN=$(GO_PREVIOUS) go version; then \
		cd clients/go && GOTOOLCHAIN=$(GO_PREVIOUS) go vet ./... && GOTOOLCHAIN=$(GO_PREVIOUS) go test -count=1 -skip Conformance .; \
	else echo "$(GO_PREVIOUS) cannot be had here: not tested with it"; fi

# What the tests need from npm; `tests/test_clients.py` calls it too.
node: tests/node/node_modules/.installed

tests/node/node_modules/.installed: tests/node/package-lock.json
	cd tests/node && npm ci --silent
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.openrpc --check
	$(BIN)/python -m tools.gotypes --check
	$(BIN)/python -m tools.reference --check
	$(BIN)/python -m tools.clauses --check
	$(MAKE) lint-go

lint-go: build/staticcheck
	cd clients/go && test -z "$$(gofmt -l . | tee /dev/stderr)" && go vet ./... && ../../build/staticcheck ./...
	cd clients/go && GOOS=darwin GOARCH=arm64 go vet ./... && GOOS=windows go build .
	cd clients/go/thirdparty && go vet ./... && ../../../build/staticcheck ./...

build/staticcheck: clients/go/lint/go.mod
	cd clients/go/lint && go build -o ../../../build/staticcheck honnef.co/go/tools/cmd/staticcheck

docs: setup
	$(BIN)/python -m tools.openrpc
	$(BIN)/python -m tools.gotypes
	$(BIN)/python -m tools.reference

# Under 20 minutes on 2 cores; it rewrites the generated parts of docs/performance.md and its plots.
# The servers that are measured beside the engine need packages that nothing else does.
BENCH ?= --write docs/performance.md
bench: .venv/.bench-installed build/bench/installs.json
	$(BIN)/python -m bench $(BENCH)

.venv/.bench-installed: requirements/bench.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --compile \
		-r requirements/bench.txt
	touch $@

build/bench/installs.json: pyproject.toml requirements/bench.txt | $(STAMP)
	$(BIN)/python -m bench.installed

# Needs `uv` on the PATH. Hashes without index addresses, for all platforms at once.
lock:
	uv pip compile pyproject.toml --extra cpu --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		-o requirements/dev.txt
	uv pip compile --group bench --constraints requirements/dev.txt --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		-o requirements/bench.txt

# After `lock`: the same versions as there for what the engine runs with.
lock-extra:
	uv pip compile requirements/lean.in --no-deps --constraint requirements/dev.txt --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		-o requirements/lean.txt
	uv pip compile --group standalone --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet -o requirements/standalone.txt

# Needs a C compiler, and some ten minutes on 2 cores. See docs/standalone.md.
COMPILER := build/standalone-venv
standalone: setup $(COMPILER)/.installed
	$(COMPILER)/bin/python -m tools.standalone $(STANDALONE)
	$(BIN)/python -m pytest tests/test_standalone.py

$(COMPILER)/.installed: requirements/lean.txt requirements/standalone.txt
	rm -rf $(COMPILER)
	$(PYTHON) -m venv $(COMPILER)
	$(COMPILER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r requirements/lean.txt
	$(COMPILER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r requirements/standalone.txt
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache tests/node/node_modules
