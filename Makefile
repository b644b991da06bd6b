# The two commands of the README, and what they stand on. Everything can be interrupted and typed again.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

# As in the Snakefile, for the tests.
export OMP_WAIT_POLICY ?= PASSIVE

PYTHON ?= python3.11
ENVIRONMENT ?= cpu
CORES ?= $(shell nproc)
ifeq ($(wildcard envs/$(ENVIRONMENT).lock),)
$(error ENVIRONMENT is $(ENVIRONMENT), and there is no envs/$(ENVIRONMENT).lock; choose cpu or gpu)
endif
BIN := .venv/bin
# The environment is rebuilt when a lock changes in content: the stamp's name is the locks' digest.
STAMP := .venv/.$(ENVIRONMENT)-$(shell cat envs/$(ENVIRONMENT).lock envs/dev.lock | sha256sum | cut -c1-16)

.PHONY: demo test environment lock drawings schema format check clean

demo: $(STAMP)  ## the whole pipeline at small scale on the CPU
	@echo "== Demo: raw data to AmberSafe on $(CORES) cores. Stages that are done already are not run again."
	@$(BIN)/snakemake --configfile demo/config.yaml --cores $(CORES) --rerun-incomplete --quiet rules host
	@echo "== Done. Look at:"
	@echo "   AmberChat  results/demo/models/amberchat"
	@echo "   AmberSafe  results/demo/models/ambersafe"
	@echo "   report     results/demo/report/index.html"

test: $(STAMP)  ## every test, and the checks of form
	@$(MAKE) --no-print-directory check
	@echo "== Tests"
	@# Three, for tests wait a third of the time; in the order of folders, which has the pipeline's, the longest, early.
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not (slurm or slurm_long or sweep)"
	@echo "== Tests on two real Slurm clusters of two nodes each, on this machine"
	@$(BIN)/pytest -n 2 --dist loadfile -m slurm tests/slurm

check: $(STAMP)
	@echo "== Form: ruff, snakefmt, mypy"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/snakefmt --check --compact-diff Snakefile rules examples
	@$(BIN)/mypy

environment: $(STAMP)  ## the locked environment in .venv

$(STAMP):
	@echo "== Environment: .venv (once; takes minutes when packages must be fetched, several GB of them for gpu)"
	@envs/install.sh $(ENVIRONMENT) $(PYTHON)
	@rm -f .venv/.cpu-* .venv/.gpu-*
	@touch $@

lock:  ## make the locks anew, after a change of envs/*.in
	envs/lock.sh

drawings: $(STAMP)  ## those of recipe, rules and layers in the documentation, after a change of them
	$(BIN)/python docs/make_drawings.py

schema: $(STAMP)  ## docs/config.schema.json, after a change of scripts/amberline/recipe
	$(BIN)/python scripts/write_schema.py

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile rules examples

clean:  ## remove what the demo made
	rm -rf results/demo
