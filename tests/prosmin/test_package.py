import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("dvc", "prefect", "datasets", "sklearn", "pydantic")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_prosmin_imports_nothing_heavy():
    assert not loaded_by("import prosmin") & {*FORBIDDEN, "torch", "numpy"}


def test_training_needs_neither_the_pipeline_nor_the_dataset_library():
    """It imports on a GPU machine that has nothing but PyTorch, timm and Accelerate."""
    modules = "training.loop", "models.store", "evaluation.embedding", "data.dataset"
    statement = f"import {', '.join(f'prosmin.{module}' for module in modules)}"
    assert not loaded_by(statement) & set(FORBIDDEN)
