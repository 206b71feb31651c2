# Needs make and Python >= 3.11. Everything else is fetched into .cache/ the first time, from hash-checked locks.

PYTHON ?= python3
# More for pytest, e.g. make test PYTEST='-k refresh -n 0'
PYTEST ?= -n 2
# More for the simulation, e.g. make simulate SIMULATE='--devices 1000'
SIMULATE ?=
# How many examples of each route `make fuzz` makes
FUZZ_EXAMPLES ?= 1000
# Where `make deploy` goes to, by samconfig.toml: dev or prod; the role that CloudFormation is to work with, if not yours; and
# more for sam deploy, e.g. make deploy DEPLOY=--no-confirm-changeset
STAGE ?= dev
EXECUTION_ROLE ?=
DEPLOY ?=
# More for the benchmark, e.g. make bench BENCH=--check (fails when a target is missed)
BENCH ?=

comma := ,
export PYTHONPATH := $(CURDIR)/layers/keyferry:$(CURDIR)/docs/clients/python
# A proxy that is set for downloads must not be asked for the emulator.
export NO_PROXY := $(if $(NO_PROXY),$(NO_PROXY)$(comma),)127.0.0.1,localhost
export no_proxy := $(NO_PROXY)
export SAM_CLI_TELEMETRY := 0

ENVIRONMENTS = $(PYTHON) layers/keyferry/keyferry_cli/local/environments.py
COMPILE = "$$dev/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE)

.DEFAULT_GOAL := help

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

demo: python ## The whole story on this machine: deploy, log in, receive a key, refresh, replay, throttle
	@dev=$$($(ENVIRONMENTS) dev emulator sam) && exec "$$dev/bin/python" -m keyferry_cli.local.demo

serve: python ## Keep a local stack up and print how to talk to it
	@dev=$$($(ENVIRONMENTS) dev emulator sam) && exec "$$dev/bin/python" -m keyferry_cli.local.serve

test: python ## Every test
	@dev=$$($(ENVIRONMENTS) dev emulator sam scan) && exec "$$dev/bin/python" -m pytest $(PYTEST)

fuzz: python ## More requests against the local stack by docs/openapi.json, other ones each time: make fuzz FUZZ_EXAMPLES=2000
	@dev=$$($(ENVIRONMENTS) dev emulator sam) && FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		exec "$$dev/bin/python" -m pytest -n 0 tests/e2e/test_openapi_fuzz.py

simulate: python ## Honest phones and thieves under this rotation and under others: two tables and docs/img/simulation.svg
	@dev=$$($(ENVIRONMENTS) dev) && exec "$$dev/bin/python" -m tests.simulation --out docs/img/simulation.svg $(SIMULATE)

diagram: python ## docs/img/architecture.svg, drawn from template.yaml
	@dev=$$($(ENVIRONMENTS) dev) && exec "$$dev/bin/python" -m tests.architecture --out docs/img/architecture.svg

bench: python ## What requests and starts cost in processor time, by the floor and the targets: docs/performance.md
	@dev=$$($(ENVIRONMENTS) dev emulator sam) && exec "$$dev/bin/python" -m tests.bench $(BENCH)

openapi: python ## Write docs/openapi.json, the interface as OpenAPI 3.1, anew from the code
	@dev=$$($(ENVIRONMENTS) dev) && exec "$$dev/bin/python" -m keyferry_cli.openapi docs/openapi.json

bench-peers: python ## The same refreshes at oidc-provider and django-oauth-toolkit, beside Keyferry (needs node and npm)
	@dev=$$($(ENVIRONMENTS) dev emulator sam peers) && exec "$$dev/bin/python" -m tests.bench.peers $(BENCH)

bench-growth: python ## Up to 1,000,000 sessions and 1,000 keys, and five minutes of steady load: does anything grow?
	@dev=$$($(ENVIRONMENTS) dev emulator sam) && exec "$$dev/bin/python" -m tests.bench.growth $(BENCH)

lint: python ## Style, format, types, and the workflows of GitHub Actions
	@dev=$$($(ENVIRONMENTS) dev) && "$$dev/bin/ruff" check . && "$$dev/bin/ruff" format --check . && "$$dev/bin/mypy" && \
	"$$dev/bin/zizmor" --offline --quiet .github/workflows

format: python ## Let the formatter have its way
	@dev=$$($(ENVIRONMENTS) dev) && "$$dev/bin/ruff" check --fix . && "$$dev/bin/ruff" format .

build: python ## What `sam deploy` uploads: functions and layers for Lambda (arm64, python3.13), in .aws-sam/
	@python3.13 -c '' 2>/dev/null || echo "note: no python3.13 on the PATH, so the layers ship without byte code:" \
		"they work, but every cold start takes about twice as long" >&2
	@sam=$$($(ENVIRONMENTS) sam) && KEYFERRY_PYTHON="$$sam/bin/python" exec "$$sam/bin/sam" build

validate: python ## The template as SAM and cfn-lint see it
	@sam=$$($(ENVIRONMENTS) sam) && exec "$$sam/bin/sam" validate --lint

deploy: python ## What was built, into the AWS account at hand: make build deploy STAGE=prod
	@sam=$$($(ENVIRONMENTS) sam) && exec "$$sam/bin/sam" deploy --config-env $(STAGE:dev=default) \
	$(if $(EXECUTION_ROLE),--role-arn "$(EXECUTION_ROLE)") $(DEPLOY)

lock: python ## Resolve the dependencies anew; UPGRADE=--upgrade moves to the newest versions
	@dev=$$($(ENVIRONMENTS) dev) && $(COMPILE) -o layers/deps/requirements.txt layers/deps/requirements.in && \
	cd tests/env && for name in dev emulator sam runtime scan peers; do $(COMPILE) -o $$name.txt $$name.in || exit 1; done

environments: python ## Only make the environments
	@$(ENVIRONMENTS) dev emulator sam scan >/dev/null

clean: ## Remove environments, builds and caches
	rm -rf .cache .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Keyferry needs Python 3.11 or newer, and $(PYTHON) is not: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }

.PHONY: help demo serve test fuzz simulate diagram bench bench-peers bench-growth openapi lint format build validate deploy lock environments clean python
