# Needs git, make and Python 3.11-3.13; everything else is installed into .venv from requirements.lock.
#   make repro                    run the pipeline and name the report    (ARGS=linear: this stage and what it needs)
#   make flow                     the same, stages at the same time       (ARGS="--set pretrain.epochs=5")
#   make dashboard                Prefect's pages on this machine         (PORT=4300)
#   make sweep FILE=sweeps/lambda.yaml    a grid of experiments           (ARGS="--slots 4")
#   make test                     run the tests                           (ARGS="-k scoring")
#   make lint                     check style and types
#   make lock                     write requirements.lock anew            (ARGS=--upgrade: newest versions)
#   make ... PYTHON=/path/python  choose the Python that .venv is made with

.PHONY: help repro flow dashboard sweep test lint lock environment

# What was set for another Python would leak into this one.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH

in_venv = PATH="$$(pwd)/.venv/bin:$$PATH"; export PATH; exec
# A run watches the process that has started it, which is make, and ends when that is killed.
run_in_venv = PROSMIN_MAKE=$$PPID; export PROSMIN_MAKE; $(in_venv)

help:
	@sed -n 's/^#   //p' Makefile

repro: environment
	@$(run_in_venv) python -m pipelines.repro $(ARGS)

flow: environment
	@$(run_in_venv) python -m pipelines.run $(ARGS)

dashboard: environment
	@$(run_in_venv) python -m pipelines.dashboard $(if $(PORT),--port $(PORT)) $(ARGS)

sweep: environment
	@$(run_in_venv) python -m pipelines.sweep $(FILE) $(ARGS)

test: environment
	@$(in_venv) python -m pytest $(ARGS)

lint: environment
	@$(in_venv) sh -c 'ruff check . && ruff format --check . && mypy && python -m pipelines.deps'

lock: environment
	@$(in_venv) uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --extra test $(ARGS) pyproject.toml -o requirements.lock

# Any Python can start this file, which then finds a suitable one or says that there is none.
environment:
	@for python in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null; then \
			exec "$$python" -I pipelines/environment.py; \
		fi; \
	done; \
	echo "error: no Python was found; install Python 3.11, 3.12 or 3.13" >&2; exit 1
