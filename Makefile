# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint tables clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("tiger needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python data/demo.py --out datasets/demo
	$(BIN)/python recipes/tokenizer.py recipes/demo/tokenizer.yaml
	$(BIN)/python recipes/retriever.py recipes/demo/retriever.yaml
	$(BIN)/python recipes/evaluate.py recipes/demo/evaluate.yaml

test: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

tables: setup
	$(BIN)/python recipes/tables.py

clean:
	rm -rf .venv runs datasets/demo build *.egg-info
