# make run [CLIPS=DIR]   raw clips to a promoted model and reports/index.html
# make curate CLIPS=DIR  only up to the ledger: what would be kept, and why not
# make up [RAY=1]        MLflow, Prefect, the scheduled flows [and a Ray head] in the background; prints addresses
# make down              ends exactly those
# make test              the test suite but for:
# make faults            what is killed, nodes that die, servers that run; takes longer
# make lint              ruff, mypy and the architecture
# make remote [TO=DIR]   a folder, or s3://..., as the default DVC remote, for `dvc push` and `dvc pull`
# make proofs            measured errors of the model tests into docs/PROOFS.md
# make readme            figures and pictures of the last run into README.md
# make lock              write requirements.lock from the environment in use
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TO ?= .local/dvc-remote
# Two compute threads collapse when another process takes one of two cores; stages set their own numbers.
export OMP_NUM_THREADS ?= 1
export DVC_NO_ANALYTICS := true

.PHONY: setup run curate up down test faults lint remote lock readme proofs

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"make: got Python {v[0]}.{v[1]}, expected 3.11; set PYTHON=/path/to/python3.11")'
	@echo "installing the pinned packages into .venv (about 3 GB, a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	@$(if $(CLIPS),$(BIN)/videomar use-clips "$(CLIPS)")
	@$(BIN)/dvc repro
	@$(BIN)/python -m flows.release

curate: setup
	@$(if $(CLIPS),$(BIN)/videomar use-clips "$(CLIPS)")
	@$(BIN)/dvc repro curate
	@$(BIN)/videomar ledger show

up: setup
	@$(if $(RAY),VIDEOMAR_RAY=$(RAY)) $(BIN)/python -m videomar.services up

down:
	@$(BIN)/python -m videomar.services down

test: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not quiet"

faults: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not quiet"
	@$(BIN)/python -m pytest -m quiet

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

remote: WHERE = $(if $(findstring ://,$(TO)),$(TO),$(abspath $(TO)))
remote: setup
	@$(BIN)/dvc remote add --force --default store $(WHERE)
	@echo "dvc push and dvc pull now use $(WHERE)"

lock:
	@{ echo "# Complete, tested set of versions for Python 3.11; install with --no-deps. Made by: make lock"; \
	   $(BIN)/python -m pip freeze --all | grep -v -E '^(-e|#|pip==|videomar)' | sed 's/+cpu//'; } > requirements.lock

proofs: setup
	@$(BIN)/python docs/update_proofs.py

readme:
	@$(BIN)/python docs/update_readme.py
