# make demo: install, train a small detector on generated images, and draw its detections
# make test: install, lint, type-check, test
# make docs: install Sphinx, build the documentation into site/
VENV ?= .venv
PYTHON ?= python3
BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
# One process more than there are cores, since some tests wait for timeouts and other processes.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()) + 1)")
STAMP := $(BIN)/../.chordate
# An environment serves this clone when it was installed from this folder with this pyproject.toml.
STATE = $(CURDIR) $(shell cksum < pyproject.toml)

.PHONY: demo test tests docs lint types install clean

install:
	@test -x "$(BIN)"/python || $(PYTHON) -m venv "$(VENV)"
	@test "$$(cat "$(STAMP)" 2>/dev/null)" = "$(STATE)" || { \
	  echo "installing into $(VENV) (PyTorch comes with it: a few minutes the first time)" && \
	  "$(BIN)"/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" && \
	  echo "$(STATE)" > "$(STAMP)"; }

demo: install
	"$(BIN)"/python tools/demo.py

lint: install
	"$(BIN)"/ruff check .
	"$(BIN)"/ruff format --check .

# mypy cannot follow the mapped folders of an editable install, so it reads the built package.
types: install
	@rm -rf build
	@"$(BIN)"/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types .
	MYPYPATH=build/types "$(BIN)"/mypy

# Types are checked while the tests run.
test: lint
	@$(MAKE) --no-print-directory -j2 types tests

tests: install
	"$(BIN)"/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

docs: install
	"$(BIN)"/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	"$(BIN)"/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . site
	@echo "open site/index.html"

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
