# `make report` measures, `make test` tests the kit in two processes of one thread each (ARGS="-n 0" for one process).
# Each sets up .venv first and is safe to repeat.
#   ARGS    more arguments, as in: make report ARGS="--model tiny"
#   TIME    seconds that `make torture` runs for; it goes on where it was
#   REPORT  the folder that `make report` writes
#   PYTHON, STABILITYKIT_TORCH: see scripts/bootstrap.sh

MAKEFLAGS += --no-print-directory
REPORT = reports
TIME = 3600
ARGS =
BIN := .venv/bin

.PHONY: help setup report test test-long torture lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make report   measure the default model, write $(REPORT)/index.html (some three minutes after set-up)"
	@echo "make test     test the kit itself"
	@echo 'make test-long  the tests that make test leaves out for their time'
	@echo "make torture  try to break the kit, for an hour, and mutants of it for another; writes docs/reliability.md"
	@echo "make lint     check style, types and the directions of imports"
	@echo "make docs     build the documentation's site into docs/_build (under a minute)"
	@echo "make setup    create or repair .venv only"
	@echo "make clean    remove .venv and all caches; reports stay"

setup:
	@sh scripts/bootstrap.sh

# Status 1 means that checks differ or fail, which is a finding; a crash has it too, but leaves no new report.
report: setup
	@touch .venv/report-started
	@$(BIN)/stabilitykit run --profile quick --report "$(REPORT)" $(ARGS) || \
		{ status=$$?; [ $$status -eq 1 ] || exit $$status; }
	@[ "$(REPORT)/index.html" -nt .venv/report-started ] || \
		{ echo "No report was written; see the messages above." >&2; exit 1; }
	@echo "Report: $(REPORT)/index.html"

test: setup
	@STABILITYKIT_REQUIRE_MODEL=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: setup
	@STABILITYKIT_LONG=1 STABILITYKIT_REQUIRE_MODEL=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests -q -n 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

torture: setup
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/torture --time $(TIME) $(ARGS)
	@[ -n "$(ARGS)" ] || OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/torture mutants --time $(TIME)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build
	@echo "Site: docs/_build/index.html"

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build docs/_build
	@find . -name __pycache__ -prune -exec rm -rf {} +
