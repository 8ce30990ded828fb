# The commands of this project: `make help` lists them. PYTHON=python3.11 make … takes another Python.
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
RUN := .venv/requirements.stamp
DEV := .venv/requirements-dev.stamp
PAGE := web/node_modules/.package-lock.json
PAGE_DEV := web/node_modules/dev.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
LOCK := $(UV) pip compile --quiet --custom-compile-command "make lock" --python-version 3.11 --python-platform linux

.DEFAULT_GOAL := help
.PHONY: help demo test check bench trust lock
.DELETE_ON_ERROR:

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: $(RUN) $(PAGE) ## index 16 photographs and serve a page that searches them, until Ctrl-C
	@trap : INT; export JINA_WORKSPACE=workspace-demo; \
	$(BIN)/python app.py -t index -d toy -m clip-small --overwrite && $(BIN)/python app.py -t query || [ $$? = 130 ]

test: $(DEV) $(PAGE_DEV) ## run the tests
	@$(BIN)/python -m pytest

check: $(DEV) ## check format, style and types, and ask for known vulnerabilities of the packages
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .
	@$(BIN)/python .ci/audit.py

bench: $(DEV) ## measure the speed on this machine, half an hour; it should have nothing else to do
	@$(BIN)/python -m bench

trust: $(DEV) ## break, load and misuse it on purpose for some hours, and write what was lost; SEED=1 repeats a run
	@$(BIN)/python -m trust $(if $(SEED),--seed $(SEED))

lock: ## write the exact versions of requirements*.in into requirements*.txt (needs uv)
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-dev.in -c requirements.txt -o requirements-dev.txt

$(RUN): requirements.txt
	@echo "installing the packages of $< into .venv: some minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) -r $<
	@touch $@

$(DEV): requirements-dev.txt $(RUN)
	@echo "installing the packages of $< into .venv"
	@$(PIP) -r $<
	@touch $@

# The venv has an npm too, for machines without one.
NPM_CI := cd web && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --silent --ignore-scripts --no-audit --no-fund

$(PAGE): web/package-lock.json | $(RUN)
	@$(NPM_CI) --omit=dev
	@touch $@

$(PAGE_DEV): web/package-lock.json | $(RUN)
	@$(NPM_CI)
	@touch $(PAGE) $@
