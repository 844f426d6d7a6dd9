#: make run [CLIPS=DIR]    the whole pipeline: raw clips to a promoted model and reports/index.html
#: make curate CLIPS=DIR   the pipeline up to the ledger: which clips would be kept, and why the others would not
#: make up [RAY=1]         start MLflow, Prefect and the scheduled flows [and a Ray head] in the background
#: make down               stop exactly those services
#: make status             the services of this checkout: state, addresses, logs
#: make setup [TORCH=...]  create .venv only; TORCH=cpu, cu126, default; without it, the build that fits the machine
#: make remote [TO=DIR]    set a folder or s3://... as the default DVC remote, for `dvc push` and `dvc pull`
#:
#: For developers:
#: make test               the test suite except for the slow part
#: make faults             the slow part: kills, dying nodes, running servers, timing
#: make pythons            imports, contract, model and a tiny pipeline on Python 3.12 and 3.13
#: make lint               ruff, mypy, codespell, import-linter, and whether dvc.yaml matches the code
#: make bench              short benchmarks against the ratios on record, five minutes on an idle machine
#: make deps               write the code that each stage imports into dvc.yaml
#: make lock               resolve the pinned requirements for all Pythons and systems
#: make check-lock         check that the pinned requirements are complete, from the public index alone
#: make docs               build the documentation site into .local/site; broken links are errors
#: make proofs             measure the errors of the model's tests again: docs/evidence/proofs.md
#: make plans              write what GPUs would take into docs/guide/real-thing.md and the presets
#: make base [HOURS=7]     train the weights that come with the package, in .local/base or TO=DIR; goes on where it ended
#: make ship [FROM=DIR]    copy the champion of a checkout after `make run` into the package: videomar/shipped
#: make readme             write the figures and pictures of the last run into README.md
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
export VIDEOMAR_FROM := $(value FROM)
export VIDEOMAR_HOURS := $(value HOURS)
export VIDEOMAR_SETUP_PYTHON := $(value PYTHON)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run curate up down status test faults pythons bench lint deps remote lock check-lock proofs plans base ship readme docs

# A folder that `videomar init` wrote has no developers.
help:
	@sed -n 's/^#: \{0,1\}//p' Makefile | if [ -f install.py ]; then cat; else sed '/^$$/,$$d'; fi

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
	@$(BIN)/python -m flows.reproduce
	@$(BIN)/python -m flows.release

curate: setup
	@$(if $(value CLIPS),$(BIN)/python -m videomar.cli use-clips -- "$$VIDEOMAR_CLIPS")
	@$(BIN)/python -m flows.reproduce curate
	@$(BIN)/python -m videomar.cli ledger show

up: setup
	@$(if $(RAY),VIDEOMAR_RAY=$(RAY)) $(BIN)/python -m videomar.services up

down:
	@$(BIN)/python -m videomar.services down

status:
	@$(BIN)/python -m videomar.services status

test: setup-dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not quiet"

# They wait for services more than they compute, hence three at a time; the folders with the longest files come first.
faults: setup-dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "slow and not quiet" \
	    tests/flows tests/services tests/training tests
	@$(BIN)/python -m pytest -m quiet

# Other Pythons than that of .venv; those of pyenv are found, too. What reads our text alone needs no second Python.
OTHER_PYTHONS ?= 3.12 3.13
PIPELINE := tests/repository/test_pipeline.py
OTHER_TESTS := $(PIPELINE)::test_every_stage_leaves_its_metrics $(PIPELINE)::test_second_run_does_nothing \
	$(PIPELINE)::test_release_registers_and_reports_and_then_has_nothing_to_do \
	$(PIPELINE)::test_generate_makes_a_playable_clip $(PIPELINE)::test_registered_version_is_sampled_and_evaluated_again_with_the_same_figures \
	tests/repository/test_contract.py tests/cli/test_cli.py tests/cli/test_project.py tests/model tests/media/test_decode.py \
	tests/curation/test_ingest.py tests/registry/test_pyfunc.py tests/registry/test_serving.py

pythons: $(OTHER_PYTHONS:%=python-%)

python-%:
	@python=$$(for each in python$* "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$*.*/bin/python; do \
	    "$$each" -c 'import sys; print(sys.executable)' 2>/dev/null && break; done); \
	[ -n "$$python" ] || { echo "pythons: got no Python $*, expected one; OTHER_PYTHONS=... names others" >&2; exit 1; }; \
	"$$python" install.py --dev --torch "$(TORCH)" --venv .local/pythons/$* && \
	.local/pythons/$*/bin/python -m pytest -n 2 --dist loadfile -m "not quiet" $(OTHER_TESTS)

bench: setup-dev
	@$(BIN)/python -m benchmarks.regression

# Where words that readers stumble over are refused; .ci/words.txt says what to write instead.
PLAIN_WORDS := videomar flows stages benchmarks docs README.md CONTRIBUTING.md CHANGELOG.md

lint: setup-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/codespell -D .ci/words.txt --skip docs/LOG.md $(PLAIN_WORDS)
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/update_deps.py --check

deps: setup-dev
	@$(BIN)/python .ci/update_deps.py

# A relative path stays one, so that the remote moves with the checkout.
remote: setup
	@to="$${VIDEOMAR_TO:-.local/dvc-remote}"; \
	$(BIN)/python -m dvc remote add --force --default -- store "$$to" && echo "dvc push and dvc pull now use $$to"

# One version of a package for all Pythons where there is one; those of the lock stay unless they must go.
COMPILE := $(BIN)/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" --overrides .ci/overrides.txt --quiet
LOCK := $(COMPILE) --fork-strategy fewest pyproject.toml
USER_EXTRAS := --extra pipeline --extra samples --extra vgg --extra demo
IMAGE_EXTRAS := $(USER_EXTRAS) --extra auth --extra postgres --extra s3

lock: setup-dev
	@$(LOCK) --all-extras --output-file requirements-dev.lock
	@$(LOCK) $(USER_EXTRAS) --constraint requirements-dev.lock --output-file requirements.lock
	@$(LOCK) $(IMAGE_EXTRAS) --constraint requirements-dev.lock --output-file requirements-image.lock
	@$(COMPILE) docs/requirements.in --output-file docs/requirements.txt

proofs: setup-dev
	@$(BIN)/python docs/update_proofs.py

plans:
	@$(BIN)/python docs/update_plans.py

base: setup
	@$(BIN)/python .ci/train_base.py --hours="$$VIDEOMAR_HOURS" --to="$$VIDEOMAR_TO"

ship:
	@$(BIN)/python .ci/ship_champion.py $${VIDEOMAR_FROM:-.}

readme:
	@$(BIN)/python docs/update_readme.py

check-lock: setup-dev
	@$(BIN)/python .ci/check_lock.py

# An environment of its own, so that nobody needs these packages to run or test the pipeline.
docs:
	@cmp -s docs/requirements.txt .local/docs/requirements.txt || { \
	    for python in "$$VIDEOMAR_SETUP_PYTHON" $(BIN)/python python3.11 python3.12 python3.13 python3; do \
	        "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; \
	    rm -rf .local/docs && "$$python" -m venv .local/docs && \
	    .local/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt && \
	    cp docs/requirements.txt .local/docs/; }
	@NO_MKDOCS_2_WARNING=1 .local/docs/bin/python -m mkdocs build --quiet --strict
	@echo .local/site/index.html
