# make run [CLIPS=DIR]    raw clips to a promoted model and reports/index.html
# make curate CLIPS=DIR   only up to the ledger: what would be kept, and why not
# make up [RAY=1]         MLflow, Prefect, the scheduled flows [and a Ray head] in the background; prints addresses
# make down               ends exactly those
# make setup [TORCH=...]  only .venv; TORCH=cpu, cu126, default (the public index's build); by itself what fits the machine
# make test               the test suite but for:
# make faults             what is killed, nodes that die, servers that run; takes longer
# make pythons            imports, contract, config, model and a tiny pipeline on Python 3.12 and 3.13
# make lint               ruff, mypy, codespell and the architecture
# make deps             the code that each stage depends on, by what it imports, into dvc.yaml
# make remote [TO=DIR]    a folder, or s3://..., as the default DVC remote, for `dvc push` and `dvc pull`
# make proofs             measured errors of the model tests into docs/evidence/proofs.md
# make readme             figures and pictures of the last run into README.md
# make lock               resolve requirements*.lock for all Pythons and systems
# make check-lock         the locks resolved in isolation for each of them: nothing is missing, all is satisfied
PYTHON ?=
TORCH ?= auto
BIN := .venv/bin
# Two compute threads collapse when another process takes one of two cores; stages set their own numbers.
export OMP_NUM_THREADS ?= 1
export DVC_NO_ANALYTICS := true
# Text is UTF-8 whatever the locale, and no other Python reaches into ours.
export PYTHONUTF8 := 1
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH VIRTUAL_ENV CONDA_PREFIX
# Names that users give reach commands by the environment, where no shell reads them, and with every `$` they have.
export VIDEOMAR_CLIPS := $(value CLIPS)
export VIDEOMAR_TO := $(value TO)
export VIDEOMAR_SETUP_PYTHON := $(value PYTHON)

.PHONY: help setup setup-dev run curate up down test faults pythons lint deps remote lock check-lock proofs readme

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# Runs install.py with a Python that the packages are made for; uv, where it is at hand, would fetch one.
# A folder that `videomar init` wrote has none: its environment is that of the command.
define install
	@[ -f install.py ] || exit 0; set -- "$$VIDEOMAR_SETUP_PYTHON"; [ -n "$$1" ] || set -- python3.11 python3.12 python3.13 python3; \
	for python in "$$@"; do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	        exec "$$python" install.py --torch "$(TORCH)" $(1); \
	    fi; \
	done; \
	if [ -z "$$VIDEOMAR_SETUP_PYTHON" ] && command -v uv >/dev/null; then \
	    exec uv run --quiet --no-project --python 3.12 install.py --torch "$(TORCH)" $(1); \
	fi; \
	echo "setup: got none of $$*, expected Python 3.11, 3.12 or 3.13; install one (apt install python3-venv," \
	    "brew install python@3.12), install uv, or set PYTHON=/path/to/python" >&2; exit 1
endef

setup:
	$(call install)
	@[ ! -f videomar.version ] || $(BIN)/python -m videomar.cli --version | sed 's/.* //' > videomar.version

setup-dev:
	$(call install,--dev)

run: setup
	@$(if $(value CLIPS),$(BIN)/python -m videomar.cli use-clips -- "$$VIDEOMAR_CLIPS")
	@$(BIN)/python -m dvc repro
	@$(BIN)/python -m flows.release

curate: setup
	@$(if $(value CLIPS),$(BIN)/python -m videomar.cli use-clips -- "$$VIDEOMAR_CLIPS")
	@$(BIN)/python -m dvc repro curate
	@$(BIN)/python -m videomar.cli ledger show

up: setup
	@$(if $(RAY),VIDEOMAR_RAY=$(RAY)) $(BIN)/python -m videomar.services up

down:
	@$(BIN)/python -m videomar.services down

test: setup-dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not quiet"

faults: setup-dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not quiet"
	@$(BIN)/python -m pytest -m quiet

# Other Pythons than that of .venv; those of pyenv are found, too.
OTHER_PYTHONS ?= 3.12 3.13
OTHER_TESTS := tests/repository/test_contract.py tests/repository/test_architecture.py tests/cli/test_cli.py tests/cli/test_project.py tests/repository/test_pipeline.py \
	tests/model tests/media/test_decode.py tests/curation/test_ingest.py tests/registry/test_pyfunc.py tests/registry/test_serving.py

pythons:
	@for version in $(OTHER_PYTHONS); do \
	    python=$$(for each in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
	        "$$each" -c 'import sys; print(sys.executable)' 2>/dev/null && break; done); \
	    [ -n "$$python" ] || { echo "pythons: got no Python $$version, expected one; OTHER_PYTHONS=... names others" >&2; exit 1; }; \
	    "$$python" install.py --dev --torch "$(TORCH)" --venv .local/pythons/$$version || exit 1; \
	    .local/pythons/$$version/bin/python -m pytest -n 2 --dist loadfile $(OTHER_TESTS) || exit 1; \
	done

lint: setup-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/update_deps.py --check

deps: setup-dev
	@$(BIN)/python .ci/update_deps.py

remote: setup
	@to="$${VIDEOMAR_TO:-.local/dvc-remote}"; \
	case "$$to" in *://* | /*) ;; *) to="$$PWD/$$to" ;; esac; \
	$(BIN)/python -m dvc remote add --force --default store "$$to" && echo "dvc push and dvc pull now use $$to"

# One version of a package for all Pythons where there is one; those of the lock stay unless they must go.
LOCK := $(BIN)/uv pip compile --no-config --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-annotate --custom-compile-command "make lock" --quiet pyproject.toml
USER_EXTRAS := --extra pipeline --extra samples --extra demo

lock: setup-dev
	@$(LOCK) --all-extras --output-file requirements-dev.lock
	@$(LOCK) $(USER_EXTRAS) --constraint requirements-dev.lock --output-file requirements.lock

proofs: setup-dev
	@$(BIN)/python docs/update_proofs.py

readme:
	@$(BIN)/python docs/update_readme.py

check-lock: setup-dev
	@$(BIN)/python .ci/check_lock.py
