# Needs Python 3.11 or newer and make. Everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
BENCH := .venv-bench/bin/python
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test check format docs site notebooks bench cases broken clean

help:
	@echo "make demo    train, attack and report on real Fashion-MNIST (about a quarter of an hour on two cores)"
	@echo "make test    run the tests"
	@echo "make check   ruff, pyright (strict), import-linter"
	@echo "make format  rewrite the code in the house style"
	@echo "make docs    write the pages of commands and messages and the numbers of README.md and docs/paper-map.md anew"
	@echo "make site    build the documentation site with the API reference, without network: build/site/html/index.html"
	@echo "make notebooks  run the notebooks and write their outputs into them"
	@echo "make bench   time the attacks beside four other toolkits, and what the memory costs (half an hour)"
	@echo "make cases   ask five toolkits about nineteen situations that users reported (ten minutes)"
	@echo "make broken  train published defenses that are known to be broken and evaluate them (a quarter of an hour)"
	@echo "make clean   remove the virtual environments and caches; runs/ stays"
	@echo ""
	@echo "next: .venv/bin/memdef --help, docs/tutorial.md for your own images, docs/concepts.md for the ideas"

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

.venv/package: .venv/created pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/development: .venv/package
	$(PIP) -e '.[test,parity,dev]'
	touch $@

demo: .venv/package
	$(BIN)/memdef demo

test: .venv/development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/development
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/package
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_numbers.py
	$(BIN)/python docs/make_messages.py

site: .venv/development
	$(BIN)/python docs/make_site.py

notebooks: .venv/development
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebook_pages.py notebooks/*.ipynb

.venv-bench/package: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . eagerpy GitPython requests
	$(BENCH) -m pip install --quiet --disable-pip-version-check -r benchmarks/peers-needs.txt
	$(BENCH) -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@

bench: .venv-bench/package
	$(BENCH) benchmarks/memory_cost.py
	$(BENCH) benchmarks/compare_gradient.py
	$(BENCH) benchmarks/compare_steps.py
	$(BENCH) benchmarks/compare_cw.py
	$(BENCH) benchmarks/compare_autoattack.py
	$(BENCH) benchmarks/compare_versions.py

cases: .venv-bench/package
	$(BENCH) benchmarks/compare_cases.py
	$(BENCH) docs/make_numbers.py

broken: .venv/package
	$(BIN)/python benchmarks/broken_defenses.py
	$(BIN)/python docs/make_numbers.py

clean:
	rm -rf .venv .venv-bench benchmarks/.cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
