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
    """So that it imports on a GPU machine that has PyTorch, timm and Accelerate only."""
    assert not loaded_by(
        "import prosmin.training.loop, prosmin.models.store, prosmin.evaluation.embedding, prosmin.data.dataset"
    ) & set(FORBIDDEN)
