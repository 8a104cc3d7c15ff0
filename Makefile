# Everything a clone needs: a virtual environment with pinned versions, the demo, the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow real real-small real-cpo real-bfpo real-control real-reward real-cost real-scorers real-safe-rlhf real-iteralign real-evaluate benchmark lint clean

demo: $(READY)
	$(BIN)/equipoise --store runs/store demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -q

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

# On public data, with one small base from scratch that is trained once for all of them.
real: real-small real-control real-scorers real-safe-rlhf real-iteralign real-evaluate

real-small real-cpo real-reward real-cost real-safe-rlhf: $(READY)
	$(BIN)/equipoise --store runs/store run recipes/examples/$@.yaml

real-bfpo: $(READY)
	$(BIN)/equipoise --store runs/store run recipes/examples/real-bfpo.yaml
	$(BIN)/equipoise --store runs/store run recipes/examples/real-bfpo.yaml --data.buffer null --output_dir runs/real-bfpo-no-buffer

real-control: real-cpo real-bfpo
	$(BIN)/python benchmarks/real_control.py --store runs/store

real-scorers: real-reward real-cost
	$(BIN)/python benchmarks/real_reward.py --store runs/store
	$(BIN)/python benchmarks/real_safety.py --store runs/store

# A judge of word lists, whose verdicts mean nothing, is there for as long as the run takes.
real-iteralign: $(READY)
	$(BIN)/python benchmarks/word_judge.py --port 8378 $(BIN)/equipoise --store runs/store run recipes/examples/$@.yaml

real-evaluate: real-safe-rlhf
	$(BIN)/python benchmarks/word_judge.py --port 8378 $(BIN)/equipoise --store runs/store evaluate --config recipes/examples/$@.yaml

benchmark: $(READY)
	$(BIN)/python benchmarks/preference_training.py --json

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) runs/demo
