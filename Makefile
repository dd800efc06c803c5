# make install put everything into .venv; with HASHES=1 only files whose SHA-256 is known
# make demo    install, train both methods on generated videos, print the table
# make test    install, check style, types and rules, run all tests
# make bench   measure speed and memory against other ways, a table in benchmarks/results
# make chaos   kill a small chain at 30 random moments, and see that it ends the same (KILLS=100)
# make fuzz    try new odd names, tables, recipes and films for some minutes (MINUTES=30)
# make report  write results/report.html: all results on disk as one page
# make ui      open the runs in MLflow; with AUTH=1 for those alone who have the password
# make docs    lay out the pages as a site: site/index.html
# make audit   ask pip-audit for known holes in the packages that are pinned
# make lint    put the code in form
# make lock    write the pins of all packages anew, after a change of pyproject.toml (UPGRADE=1)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo test bench chaos fuzz report ui docs audit lint lock

PYTHON ?= python3
BIN := .venv/bin

# Snakemake, Matplotlib and torchvision keep files of theirs in the home, or here if that cannot be.
CACHES := "$${XDG_CACHE_HOME:-$$HOME/.cache}"
ifneq ($(shell mkdir -p $(CACHES) 2>/dev/null && test -w $(CACHES) && echo yes),yes)
export XDG_CACHE_HOME := $(CURDIR)/.cache
endif

# Prints MLflow's store, as config/config.yaml names it.
export STORE := import yaml; from adafocus.recipe import Config; \
	print(Config(**yaml.safe_load(open("config/config.yaml"))).tracking_uri)

# Prints all results and sweeps on disk, of any experiment, seed and method.
export MADE := from pathlib import Path; from adafocus.recipe import results_in; \
	print(*results_in(Path("results")), *results_in(Path("results/sweeps")))

install: $(BIN)/installed

demo: $(BIN)/installed
	$(BIN)/snakemake --cores all results/demo-uni_28.json results/demo_28_stage3.json results/summary.md
	@echo
	@sed '/^## /,$$d' results/summary.md
	@echo "All tables:             results/summary.md"
	@echo "Where they looked:      results/plots/demo-uni_28_sheet.png, results/plots/demo_28_stage3_sheet.png"
	@echo "How they learned:       results/plots/*_curves.svg"
	@echo "Accuracy after a step:  results/plots/*_steps.svg"
	@echo "Accuracy against cost:  results/summary.svg"
	@echo "All of this on a page:  make report"
	@echo "All runs in MLflow:     make ui"

test: $(BIN)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/pytest --numprocesses 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --durations 15 -m "not gpu"

bench: $(BIN)/installed
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/runtimes.py

KILLS ?= 30
chaos: $(BIN)/installed
	$(BIN)/python benchmarks/chaos.py --kills $(KILLS)

MINUTES ?= 30
fuzz: $(BIN)/installed
	end=$$((SECONDS + 60 * $(MINUTES))); while ((SECONDS < end)); do \
		FUZZ=1 OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/fuzz; done

report: $(BIN)/installed
	$(BIN)/snakemake --cores all results/summary.md
	$(BIN)/snakemake --report results/report.html results/summary.md \
		$$($(BIN)/python -c "$$MADE") $$(find results -path 'results/curves/*.csv')

ui: $(BIN)/installed
	store=$${MLFLOW_TRACKING_URI:-$$($(BIN)/python -c "$$STORE")}; \
	$(BIN)/$(if $(AUTH),python -m adafocus.tracking.login,mlflow) ui --host 127.0.0.1 \
		--backend-store-uri "$$store"

docs: $(BIN)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

# In an environment of its own, which cannot move a pin.
audit: $(BIN)/installed
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

lint: $(BIN)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow
	$(BIN)/python docs/reference.py

# In an environment of its own, as that of all may not be there yet. What has a pin that still fits
# keeps it, unless UPGRADE=1.
lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet uv
	.venv/lock/bin/uv pip compile --quiet --universal --all-extras --generate-hashes \
		--no-annotate --no-header $(if $(UPGRADE),--upgrade) pyproject.toml \
		--output-file requirements-hashed.lock
	sed '/^ *--hash/d; s/ \\$$//' requirements-hashed.lock > requirements.lock

$(BIN)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11, 4) or sys.exit(f"Python 3.11.4 or newer is needed, and $(PYTHON) is {sys.version.split()[0]}; name another: make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv. This downloads about 5 GB, once: PyTorch comes with CUDA."
	@$(BIN)/pip install --disable-pip-version-check $(if $(HASHES), \
		--require-hashes --requirement requirements-hashed.lock,--requirement requirements.lock)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
