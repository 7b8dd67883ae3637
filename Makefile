# What developers and users do here. Each target does all of its own set-up; `make help` lists them.
#
# Set-up has two steps. scripts/packages.sh installs missing programs; when none is missing, it
# costs nothing. scripts/venv.sh makes .venv. It runs again only when the stamp is older than its
# inputs. Python sources are not inputs: the package is installed editable.

.DEFAULT_GOAL := help
.PHONY: help setup install uninstall demo test check bench soak fuzz chaos clean static test-programs

# Daemons (distccd, dmucs) are in directories that an ordinary user's PATH lacks.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Python and pytest compile each file once, and not in each of the many programs that tests start.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMP := .venv/.stamp
SANITIZED := build/gethost-sanitized
PYTHON_DIRS := $(wildcard src tests bench)
GETHOST := $(wildcard src/gethost/*)
PREFIX = $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Set everything up: .venv, and distcc from the system's packages
	@scripts/packages.sh setup

# Only our programs come into PREFIX/bin: scripts/install.sh says why.
install:  ## The programs for use, in ~/.local/bin (for root: /usr/local/bin), or PREFIX=DIR
	@scripts/packages.sh build
	@scripts/install.sh "$(PREFIX)"

uninstall:  ## Remove what install made
	@scripts/install.sh --remove "$(PREFIX)"

demo: $(STAMP)  ## A farm on this machine builds a real C project, and shows what happened
	@scripts/packages.sh demo
	@$(BIN)/demo-farm

test: static test-programs $(SANITIZED)  ## All tests
	GETHOST_SANITIZED=$(CURDIR)/$(SANITIZED) $(BIN)/pytest

check: static  ## Format, lint, types and the fast tests: under 30 seconds
	$(BIN)/pytest -m "not slow and not e2e" -n 2 --dist worksteal

bench: $(STAMP)  ## How fast it is, beside what it should be compared with
	@scripts/packages.sh bench
	@$(BIN)/python -m bench

soak: $(STAMP)  ## Farms in simulated storms: SEEDS=1000 or LEASES=1000000
	@PYTHONPATH=tests $(BIN)/python -m storms $(if $(LEASES),--leases $(LEASES),--seeds $(or $(SEEDS),1000))

fuzz: $(STAMP)  ## Odd lines, conversations and files: MINUTES=10
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(MINUTES),10)

chaos: test-programs  ## Real builds on a farm that is killed, stopped and cut off: RUNS=20
	@PYTHONPATH=tests $(BIN)/python -m chaos --runs $(or $(RUNS),5)

clean:  ## Remove everything that these targets made
	rm -rf .venv build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(PYTHON_DIRS) -name __pycache__ -type d -prune -exec rm -rf {} +

# C has no format check. A formatter's layout changes from version to version. A check that runs
# only where the tool is installed fails for the next developer.
static: $(STAMP)
	$(BIN)/ruff format --check $(PYTHON_DIRS)
	$(BIN)/ruff check $(PYTHON_DIRS)
	$(BIN)/lint-imports
	$(BIN)/mypy $(PYTHON_DIRS)

test-programs: $(STAMP)
	@scripts/packages.sh test

$(STAMP): pyproject.toml CMakeLists.txt scripts/venv.sh $(GETHOST)
	@scripts/packages.sh build
	@scripts/venv.sh $@

# A second gethost beside the installed one, from the same sources: here every memory error is
# fatal.
$(SANITIZED): $(STAMP) | test-programs
	@mkdir -p build
	$(CC) -std=c11 -Wall -Wextra -Werror -O1 -g -fno-omit-frame-pointer \
		-fsanitize=address,undefined -fno-sanitize-recover=all \
		-DGETHOST_VERSION='"$(shell $(BIN)/python -c 'import compilefarm; print(compilefarm.__version__)')"' \
		-o $@ $(filter %.c,$(GETHOST))
