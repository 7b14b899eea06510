# `make demo`, then `make app`, to see it work; `make test` to change it. All set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait for each other sleep: on a busy machine they would take turns at spinning.
export OMP_WAIT_POLICY := passive

# What `make reproduce` makes, and further options of `tiger train`, such as --embeddings FILE.
SET ?= beauty
OPTIONS ?=

.PHONY: setup demo demo-full reproduce dataset app test test-oldest lint docs tables speed chaos dist clean

# Where `make speed` finds Beauty, see "Bring your own data" in the README.
DATASET ?= datasets/beauty

# --no-compile: of 20,000 files of Python most are never imported, the others are compiled as they are.
setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("tiger needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# Interrupted, it goes on where it was when it is started again.
demo: setup
	@$(BIN)/python data/demo.py --out datasets/demo
	@$(BIN)/tiger train datasets/demo --out runs/demo --recipe recipes/demo
	@echo "Now: make app"

app: setup
	$(BIN)/tiger app runs/demo/model

# Codes as in the paper, more epochs, tables with ties shuffled: three times as long.
demo-full: setup
	$(BIN)/python data/demo.py --out datasets/demo
	$(BIN)/python recipes/tokenizer.py recipes/demo-full/tokenizer.yaml
	$(BIN)/python recipes/retriever.py recipes/demo-full/retriever.yaml
	$(BIN)/python recipes/two_stage.py recipes/demo-full/two_stage.yaml
	$(BIN)/python recipes/evaluate.py recipes/demo-full/evaluate.yaml

# One set by the paper's recipe: tokenizer, T5, report.html, and rows of results as in recipes/results/. Interrupted, it
# goes on where it was when it is started again.
reproduce: dataset setup
	$(BIN)/tiger train datasets/$(SET) --out runs/reproduce/$(SET) --recipe recipes/paper/$(SET) $(OPTIONS)
	$(BIN)/python recipes/evaluate.py recipes/paper/$(SET)/evaluate.yaml --dataset datasets/$(SET) --models runs/reproduce/$(SET)/model --results_dir runs/reproduce/$(SET)/results
	@echo "Now: runs/reproduce/$(SET)/report.html, and recipes/results/$(SET)/tiger-paper.json to compare runs/reproduce/$(SET)/results with"

dataset:
	@test -d recipes/paper/$(SET) || { echo "no recipe recipes/paper/$(SET): give SET=beauty, sports or toys"; exit 2; }
	@test -f datasets/$(SET)/items.parquet || { echo "datasets/$(SET) is not there, prepare it: make setup && $(BIN)/python data/amazon.py $(SET) --out datasets/$(SET)"; exit 2; }

# mypy checks the library in one of the tests, tests/test_types.py, while others run. `make test WORKERS=0`: all in one
# process, for a debugger.
WORKERS ?= auto

test: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# In an environment of its own: the oldest versions that pyproject.toml allows.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-oldest.txt)"
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-oldest.txt
	.venv-oldest/bin/python -m pytest tests/recommender tests/serving tests/embeddings tests/quantizers

lint: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# The site goes to site/. --strict: a page that is in no menu, or a link that leads nowhere, is an error.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict

tables: setup
	$(BIN)/python recipes/tables.py
	$(BIN)/python recipes/results_page.py
	$(BIN)/python recipes/claims.py

speed: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,speed]"
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/decoding.py --dataset $(DATASET)
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/training.py --dataset $(DATASET)
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/catalogue.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/indexing.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/growth.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/speed/ranker.py
	$(BIN)/python recipes/speed/evaluation.py --dataset $(DATASET)
	$(BIN)/python recipes/speed/service.py --dataset $(DATASET)
	$(BIN)/python recipes/speed/load.py
	$(BIN)/python recipes/speed/gpu.py --dataset $(DATASET)
	$(BIN)/python recipes/speed/report.py

chaos: setup
	OMP_NUM_THREADS=1 HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/python -m tests.faults.chaos

# Needs no .venv: nothing of the library is imported.
dist:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check build
	$(PYTHON) -m build

clean:
	rm -rf .venv .venv-oldest runs datasets/demo build dist site *.egg-info
