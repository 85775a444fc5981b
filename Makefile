# Each target works as the first command on a clean clone: the stamp makes .venv when it is missing, half made, or
# older than what it was made from. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
PACKAGES := obt_agent obt_server obt_standin obt_conformance
CHECKED := $(PACKAGES) tests $(wildcard benchmarks docs/*.py docs/examples/*.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-again lint format bench fuzz faults test-systemd test-browser test-proxy deb docs site clean update-constraints venv

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

# The stamp holds the folder that the venv was made in: one that was copied or moved is made again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml constraints.txt
	@scripts/make-venv "$(PYTHON)"

venv: $(STAMP) ## make .venv, with everything that the other targets need

demo: $(STAMP) ## server and agent on this machine, at the Ollama that answers or at a stand-in
	$(VENV)/bin/obt-server demo

test: $(STAMP) ## all tests that need no systemd and no browser, with branch coverage
	$(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=term

test-again: $(STAMP) ## the tests that failed last time, one after the other
	$(PY) -m pytest --last-failed --last-failed-no-failures none

lint: $(STAMP) ## ruff, mypy --strict, the import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict $(CHECKED)
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP) ## let ruff lay out the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(STAMP) ## measure the agent itself
	$(PY) -m benchmarks

fuzz: $(STAMP) ## the properties with OBT_FUZZ (50) times as many examples
	OBT_FUZZ=$(or $(OBT_FUZZ),50) $(PY) -m pytest --timeout 7200 -q $(shell grep -rlE "hypothesis" tests --include='test_*.py')

faults: $(STAMP) ## the long run of faults
	$(PY) -m tests.faults

ifeq ($(wildcard tests/systemd),)
test-systemd:
	@echo "there is no tests/systemd yet: nothing to test"
else
test-systemd: $(STAMP) ## the units under a real systemd
	$(PY) -m pytest -n 2 --dist loadfile tests/systemd
endif

ifeq ($(wildcard tests/browser),)
test-browser:
	@echo "there is no tests/browser yet: nothing to test"
else
test-browser: $(STAMP) ## the page in headless Chromium (installed with apt-get when missing and root)
	scripts/ensure-chromium
	$(PY) -m pytest tests/browser
endif

test-proxy: $(STAMP) ## the reverse proxies of deploy/proxy (installed with apt-get when missing and root)
	scripts/ensure-proxies
	$(PY) -m pytest tests/proxy

deb: $(STAMP) ## the Debian package, in dist/
	scripts/make-deb

docs: $(STAMP) ## write docs/ anew from the message types
	$(PY) docs/generate.py

# What only the site needs is installed when the site is first built.
$(VENV)/.site: $(STAMP)
	$(PY) -m pip --quiet --disable-pip-version-check install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

site: $(VENV)/.site ## the documentation site, in site/; a dead link or an unknown name fails
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

update-constraints: ## resolve every dependency afresh into constraints.txt
	scripts/update-constraints "$(PYTHON)"

clean: ## remove what make made, .venv included
	rm -rf $(VENV) .venv.lock build dist site .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
