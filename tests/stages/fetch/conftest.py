"""An empty folder for a dataset."""

import datasets
import pytest


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder with the repository's params, in which ``mine`` is the dataset under test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path
