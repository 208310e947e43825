# Commands of this checkout. Every path is relative, so that a checkout may live under any path.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The live database of inventories/local.
DATABASE := rently_lending
# Further arguments for ansible-playbook or pytest: make deploy ARGS="-e @examples/rently/broken.yml"
ARGS ?=

SERVER := .venv/bin/python inventories/embedded_server.py
PLAYBOOK := .venv/bin/ansible-playbook -i inventories/local
PYTEST := .venv/bin/python -m pytest

# Ansible ignores an ansible.cfg in a directory that everybody may write, and refuses locales other than UTF-8.
export ANSIBLE_CONFIG := ansible.cfg
export LC_ALL := C.UTF-8

##@ Use

.PHONY: help
help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## Create .venv with everything that runs, unless it is there
	@.ci/venv requirements.txt

.PHONY: server
server: setup ## Start the embedded PostgreSQL 18 of inventories/local, unless it runs
	@$(SERVER) start

.PHONY: sample
sample: server ## Create the sample lending database at version 1, unless it exists
	@$(SERVER) holds $(DATABASE) || { [[ $$? == 3 ]] && \
	  echo "sample: creating $(DATABASE)" >&2 && $(PLAYBOOK) examples/rently/setup.yml; }

.PHONY: deploy
deploy: sample ## Deploy to the sample database: back up, migrate, verify [ARGS="-e ..."]
	@$(PLAYBOOK) playbooks/deploy.yml $(ARGS)

.PHONY: rollback
rollback: server ## Undo the last deployment [ARGS="-e holdfast_confirm=rently_lending"]
	@$(PLAYBOOK) playbooks/rollback.yml $(ARGS)

.PHONY: backup
backup: server ## Take an archive of the sample database [ARGS="-e ..."]
	@$(PLAYBOOK) playbooks/backup.yml $(ARGS)

.PHONY: verify
verify: server ## Ask the sample database everything that is to be asked [ARGS="-e ..."]
	@$(PLAYBOOK) playbooks/verify.yml $(ARGS)

.PHONY: cleanup
cleanup: server ## Drop what deployments left and no undo needs [ARGS="-e cleanup_confirm=rently_lending"]
	@$(PLAYBOOK) playbooks/cleanup.yml $(ARGS)

.PHONY: dsn
dsn: setup ## Print the libpq URI of the sample database: psql "$(make dsn)"
	@$(SERVER) dsn $(DATABASE)

.PHONY: stop
stop: ## Stop the embedded server
	@python=.venv/bin/python; [[ -x $$python ]] || python=python3; $$python inventories/embedded_server.py stop

.PHONY: clean
clean: stop ## Stop the server and remove .local: its databases, archives and reports
	@echo "clean: removing .local" >&2
	@rm -rf .local

.PHONY: distclean
distclean: clean ## clean, and remove .venv and caches
	@echo "distclean: removing .venv, caches and built artifacts" >&2
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .ansible holdfast-postgres-*.tar.gz

##@ Develop

.PHONY: dev
dev: setup ## Add the tools for tests and checks to .venv
	@.ci/venv requirements-dev.txt

.PHONY: prerequisites
prerequisites: ## Install what tests need from the distribution (as root), or say what is missing
	@.ci/prerequisites

.PHONY: test
test: prerequisites dev ## Everything: lint, docs, sanity, unit, integration
	@for step in lint docs sanity; do \
	  echo "== make $$step (after $$SECONDS s)"; $(MAKE) $$step; \
	done; \
	echo "== unit and integration tests (after $$SECONDS s)"; \
	$(PYTEST) -n 2 --dist loadfile tests/unit tests/integration $(ARGS)

.PHONY: lint
lint: export PATH := $(CURDIR)/.venv/bin:$(PATH)
lint: export MYPYPATH := .collections
lint: dev ## ruff, yamllint, ansible-lint (production), mypy (strict), changelog
	@failed=; \
	check() { echo "lint: $$*"; "$$@" || failed="$$failed $$1"; }; \
	check ruff check .; \
	check ruff format --check .; \
	check yamllint --strict .; \
	check ansible-lint --nocolor; \
	check mypy -p ansible_collections.holdfast.postgres.plugins.module_utils; \
	check mypy --strict inventories/embedded_server.py; \
	check antsibull-changelog lint; \
	[[ ! $$failed ]] || { echo "lint: failed:$$failed" >&2; exit 1; }

.PHONY: docs
docs: export PATH := $(CURDIR)/.venv/bin:$(PATH)
docs: dev ## Render the documentation of every module and resolve every link
	@echo "docs: ansible-doc of every module, links of README.md and docs/"
	@ansible-doc --type module --list holdfast.postgres --json | \
	  .venv/bin/python -c 'import json, sys; print("\n".join(json.load(sys.stdin)))' | \
	  xargs ansible-doc --type module >/dev/null
	@$(PYTEST) -q tests/unit/collection/test_documentation.py

.PHONY: sanity
sanity: dev ## ansible-test sanity on the built and installed artifact
	@.ci/sanity

.PHONY: reference
reference: dev ## Generate docs/reference from the code
	@.venv/bin/python .ci/reference.py

.PHONY: changelog
changelog: export PATH := $(CURDIR)/.venv/bin:$(PATH)
changelog: dev ## Generate CHANGELOG.md from changelogs/fragments
	@antsibull-changelog release --update-existing --refresh

.PHONY: unit
unit: dev ## Unit tests [ARGS="-k ..."]
	$(PYTEST) tests/unit $(ARGS)

.PHONY: integration
integration: prerequisites dev ## Integration tests against real servers [ARGS="-k ..."]
	$(PYTEST) -n 2 --dist loadfile tests/integration $(ARGS)

.PHONY: faults
faults: dev ## Kills, outages and a full disk in the middle of an undo (as root) [ARGS="-k ..."]
	$(PYTEST) tests/faults $(ARGS)

.PHONY: molecule
molecule: dev ## Roles on booted systemd hosts: one host, then a tier (as root) [ARGS="--destroy=never"]
	@.ci/molecule default tier -- $(ARGS)

.PHONY: molecule-matrix
molecule-matrix: dev ## The same on every Debian that is supported, too (as root) [ARGS="--destroy=never"]
	@.ci/molecule default tier matrix -- $(ARGS)

.PHONY: bench
bench: setup ## Measure against the usual commands: a table, and JSON in benchmarks/results [ARGS="..."]
	.venv/bin/python benchmarks/run.py $(ARGS)
