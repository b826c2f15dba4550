# The two commands that a newcomer needs: make demo, make test. Both set up what they need.
.DEFAULT_GOAL := help
# Tests of engines mostly wait, so more of them run at once than there are cores.
WORKERS ?= 3
# The tests start our commands hundreds of times: compiled once is enough.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test dist bench lint reference notebooks sync clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

sync:
	@tools/uv sync --quiet --frozen --all-extras

demo: sync ## Simulate a year of a real project's CI: prints the table, writes report.html; no Docker needed
	@.venv/bin/analyzer demo

test: sync ## Run all tests, against engines that the tests start themselves (installs Debian packages)
	@.ci/install-packages || { [ "$$CI" != true ] && echo "make test: tests of what is missing will be skipped"; }
	@.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal --durations=15

dist: sync ## Build the release into dist/: source, wheels, Debian packages, SBOM, checksums
	@PYTHONPATH=. .venv/bin/python tools/dist.py

test-fast: sync ## Run the quick tests, without engine, browser or machine: while you work
	@TESTS=fast .venv/bin/python -m pytest -n auto --dist worksteal -m "not engine and not browser and not slow" \
		$(addprefix --ignore tests/,browser docs engine release)

bench: sync ## Measure speed and weight, side by side with others in one run
	@.venv/bin/python -m bench

lint: sync ## Check style, types and the direction of imports
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

reference: sync ## Write docs/reference.md and the kernel's constants from the code again
	@PYTHONPATH=. .venv/bin/python tools/reference.py
	@PYTHONPATH=. .venv/bin/python tools/constants.py

notebooks: sync ## Run the notebooks and write their output into them
	@PYTHONPATH=. .venv/bin/python tools/notebooks.py

clean: ## Remove what the targets made
	rm -rf .venv .tools dist build report.html .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
