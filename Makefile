# Needs git, make and Python 3.11 to 3.13. Everything else comes from requirements.lock into .venv.
#   make repro       run the pipeline, print the results       ARGS=linear: up to one stage
#   make flow        the same, with stages in parallel         ARGS="--set pretrain.epochs=5"
#   make plan        what a run would do, why, and for how long  ARGS=--last: what stages took
#   make repro, flow or plan   with other settings             PARAMS=recipes/cifar10.yaml
#   make dashboard   Prefect's web pages on this machine       PORT=4300
#   make worker      serve sweeps of another machine           SERVER=http://10.0.0.5:4200/api
#   make clean       remove files of datasets no longer named  ARGS=--dry-run: say which
#   make sweep       one experiment per point of a grid        FILE=sweeps/lambda.yaml
#   make study       compare methods over seeds            FILE=studies/digits.yaml
#   make test        run the tests                             ARGS="-k scoring"
#   make lint        check style, types, lists of dvc.yaml
#   make docs        the documentation as a site: site/index.html
#   make lock        resolve requirements.lock again           ARGS=--upgrade: newest versions
#   make ... PYTHON=/path/to/python    choose the Python of .venv

.PHONY: help repro plan flow dashboard worker clean sweep study test lint docs lock environment

# Settings for another Python must not reach this one.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH

# Without the theme's word about its successor.
export NO_MKDOCS_2_WARNING = 1

in_venv = PATH="$$(pwd)/.venv/bin:$$PATH"; export PATH; exec
# A run watches make, which started it, and ends when make is killed.
run_in_venv = PROSMIN_MAKE=$$PPID; export PROSMIN_MAKE; $(in_venv)

help:
	@sed -n 's/^#   //p' Makefile

ifdef PARAMS
repro: environment
	@$(run_in_venv) python -m pipelines.recipe repro $(PARAMS) $(ARGS)

flow: environment
	@$(run_in_venv) python -m pipelines.recipe run $(PARAMS) $(ARGS)

plan: environment
	@$(in_venv) python -m pipelines.recipe plan $(PARAMS) $(ARGS)
else
repro: environment
	@$(run_in_venv) python -m pipelines.repro $(ARGS)

flow: environment
	@$(run_in_venv) python -m pipelines.run $(ARGS)

plan: environment
	@$(in_venv) python -m pipelines.plan $(ARGS)
endif

dashboard: environment
	@$(run_in_venv) python -m pipelines.dashboard $(if $(PORT),--port $(PORT)) $(ARGS)

worker: environment
	@$(run_in_venv) python -m pipelines.worker $(SERVER) $(ARGS)

clean: environment
	@$(in_venv) python -m pipelines.clean $(ARGS)

sweep: environment
	@$(run_in_venv) python -m pipelines.sweep $(FILE) $(ARGS)

study: environment
	@$(run_in_venv) python -m pipelines.study $(FILE) $(ARGS)

test: environment
	@$(in_venv) python -m pytest $(ARGS)

lint: environment
	@$(in_venv) sh -c 'ruff check . && ruff format --check . && mypy && python -m pipelines.deps'

docs: environment
	@$(in_venv) python -m mkdocs build $(ARGS)

lock: environment
	@$(in_venv) uv pip compile --quiet --universal --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --python-version 3.11 \
		--extra pipeline --extra onnx --extra slurm --extra docs --extra test $(ARGS) pyproject.toml -o requirements.lock

# Any Python can start environment.py, which then looks for a supported one.
environment:
	@for python in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null; then \
			exec "$$python" -I pipelines/environment.py; \
		fi; \
	done; \
	echo "error: no Python was found; install Python 3.11, 3.12 or 3.13" >&2; exit 1
