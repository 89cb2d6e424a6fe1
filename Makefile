# Two commands, on a machine with git, make and Python 3.10 to 3.13:
#
#   make demo       trains, exports, proves in Lava, learns on chip, on the digits data
#   make test       ruff, mypy and the tests
#
# The first of either makes .venv with everything in it, Lava included; after that both start at
# once. Another Python gets an environment of its own (.venv-3.10 and so on), and
# `make test PYTHON=python3.10` runs on the pins that Lava's authors set.
#
# PIP_TORCH_ARGS is handed to `pip install torch`, where a machine without a GPU should take a CPU
# build from a place of your own (see .ci/venv.py for what is tried without it).

PYTHON ?= python3
# python3 is .venv, whatever its version; any other name is asked for its version, so that
# python3.10 and the path of the same Python share one folder.
BASE := $(shell sh .ci/find-python '$(PYTHON)')
ifeq ($(PYTHON),python3)
VENV ?= .venv
else
VENV ?= .venv-$(shell '$(BASE)' -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Four at most: Lava gives every process of a simulation an operating system process of its own.
# One thread each: as many workers as processors leave none for a second.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
PYTEST_ARGS ?=
# Where Lava is installed by this file, a test in Lava that is skipped is an error.
export PUMICE_REQUIRE_LAVA := 1
DEMO_ARGS ?=

.PHONY: help demo test lint types tests exactness soak coverage docs wheel venv clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(READY)
	$(BIN)/pumice demo $(DEMO_ARGS)

test: lint types tests

lint: $(READY)
	$(BIN)/ruff check .

# The types are checked against the stubs of numpy 2 and current torch; those of the official
# lane are older and say other things about the same code.
types: $(READY)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	then echo $(BIN)/mypy; $(BIN)/mypy; \
	else echo "mypy: skipped on Python 3.10, checked on 3.11 and later"; fi

tests: $(READY)
	$(PYTEST) $(PYTEST_ARGS)

# No test found is an error here (pytest's exit status 5), as any other failure is.
exactness: $(READY)
	$(PYTEST) -m exactness $(PYTEST_ARGS)

# Random networks and damaged files by the thousand (some minutes); a share of it is in `make test`.
soak: $(READY)
	PUMICE_SOAK=2000 PUMICE_FUZZ=10000 $(BIN)/python -m pytest -s \
		tests/test_soak.py tests/test_soak_training.py tests/test_zoo.py \
		tests/test_fuzz.py tests/test_fuzz_readers.py

# Which lines the tests reach (twice as long as they take alone); less than 90 % is an error. Tests
# that take memory or disk away would take it away from the measurement.
coverage: $(READY)
	@$(BIN)/python -c 'import pytest_cov' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --no-warn-conflicts --constraint constraints.txt \
			--editable '.[coverage]'
	$(PYTEST) --cov --cov-report=term:skip-covered --timeout 900 -k 'not disk and not test_faults' $(PYTEST_ARGS)

# The site, into build/site. Its tools are installed when they are first wanted.
docs: $(READY)
	@$(BIN)/python -c 'import material, mkdocs, mkdocstrings_handlers.python' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --no-warn-conflicts --constraint constraints.txt \
			--editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The wheel, in an empty environment, without Lava and with it; what it needs is linked from here.
wheel: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python .ci/wheel.py

venv: $(READY)

# The stamp is written last, so an interrupted installation starts afresh at the next call.
$(READY): pyproject.toml constraints.txt constraints-3.10.txt .ci/venv.py
	@test -n '$(BASE)' || { echo "make: '$(PYTHON)' is no Python 3.10 to 3.13 with venv and pip: name one, as in make PYTHON=python3.12 (on Debian and Ubuntu, venv is the package python3-venv)" >&2; exit 1; }
	@'$(BASE)' .ci/venv.py '$(VENV)'

clean:
	rm -rf .venv .venv-3.* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
