# Everything runs in .venv, which `make` makes. Paths with spaces are fine: every path below is relative.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install base demo test lint types bench full-size mini-train mini-pack mini-eval clean

# the base install is enough for the demo; `install` adds every extra but vllm and ray
.venv/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.all: .venv/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,dev]"
	touch $@

base: .venv/.base
install: .venv/.all

demo: .venv/.base
	$(BIN)/python examples/demo.py

test: .venv/.all lint types
	$(BIN)/python -m pytest

lint: .venv/.all
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: .venv/.all
	$(BIN)/python -m mypy

bench: .venv/.all
	$(BIN)/python benchmarks/first_answer.py

full-size: .venv/.all
	$(BIN)/python benchmarks/full_size.py

# from scratch, about 90 minutes on two cores; then its figures on unseen scenes
mini-train: .venv/.all
	$(BIN)/python -m visualglm.training.pretrain recipes/mini/recipe.toml

mini-pack: .venv/.all
	$(BIN)/python -m visualglm.training.pack runs/mini/model visualglm/mini

mini-eval: .venv/.all
	$(BIN)/python -m visualglm.evaluation.scenes --model visualglm/mini --scenes 160 -o recipes/mini/figures.json
	$(BIN)/python -m visualglm.evaluation.card recipes/mini/figures.json visualglm/mini

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
