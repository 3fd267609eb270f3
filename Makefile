# Thin: each target is one or two Python commands that also run without make (README, "Without make").
PYTHON ?= python3
RUN := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo distill compare test check bench serve ui validate clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## set up .venv from the pinned stacks (demo and test do it themselves)
	@$(PYTHON) deployments/setup.py

demo: setup ## the whole chain on two CPU cores: fine-tune, merge, export, evaluate, release
	@$(RUN) -m flows finetune signals/nano

distill: ## a teacher, its answers by vLLM, and the student made of them, on two CPU cores
	@$(PYTHON) deployments/setup.py --with vllm
	@$(RUN) -m flows distill proofkit/nano

compare: setup ## rank what a run made, or any list of models: make compare PROFILE=signals/compare-thinking
	@$(RUN) -m flows compare $(or $(PROFILE),signals/nano)

test: ## every test, Unsloth and vLLM included
	@$(PYTHON) deployments/setup.py --with dev --with unsloth --with vllm
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile && quick=0 || quick=$$?; \
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slow -n 2 --dist loadfile && exit $$quick

check: ## format, lint, import directions, light imports
	@$(PYTHON) deployments/setup.py --with dev
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@.venv/bin/lint-imports --no-cache
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q tests/test_light_imports.py

bench: setup ## measure Prefect against plain calls, merge against PEFT, a cached run; writes the README's table
	@$(RUN) tests/benchmarks/run.py

serve: setup ## serve the released GGUF with an OpenAI-compatible API on loopback
	@$(RUN) -m flows serve signals/nano

ui: setup ## Prefect server, worker and deployments on loopback; Ctrl-C stops them all
	@$(RUN) -m deployments.ui

validate: setup ## check rows: make validate RECIPE=signals DATA=path [TOKENIZER=folder of a model]
	@$(RUN) -m flows validate $(RECIPE) $(DATA) $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

clean: ## remove what runs made: store, release, validation, caches (.venv and .venv-vllm stay)
	rm -rf store release comparison validation .prefect .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
