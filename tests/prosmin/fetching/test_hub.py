"""Datasets of the hub give their own images, and no other files of this machine."""

from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from prosmin.common.errors import UserError
from prosmin.data.picture import Unreadable, Withheld, decode
from prosmin.fetching.hub import hub
from tests.prosmin.fetching.samples import picture, place, table, values


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_a_dataset_in_the_layout_of_the_hub_keeps_its_bytes_and_names(tmp_path, hub_cache):
    data = tmp_path / "repo" / "data"
    data.mkdir(parents=True)
    table(data / "train-00000-of-00002.parquet", [0, 1], names=["plane", "bird"])
    table(data / "train-00001-of-00002.parquet", [1, 0], names=["plane", "bird"], start=2)
    table(data / "validation-00000-of-00001.parquet", [1, 0], names=["plane", "bird"], start=4)
    source = hub(str(tmp_path / "repo"), "0" * 40, splits={"train": "train", "test": "validation"})
    assert source.classes == ("plane", "bird")
    assert source.splits["train"].labels.tolist() == [0, 1, 1, 0]
    assert [(image, name) for image, _, name in source.splits["test"].take(np.array([1]))] == [
        (picture(5), "validation:1")
    ]
    assert values(source.splits["train"].take(np.array([1, 3]))) == [1, 3]


def test_image_files_of_a_hub_dataset_are_followed(tmp_path, hub_cache):
    place(
        tmp_path / "repo",
        "train/cat/0.png",
        "train/dog/1.png",
        "train/dog/2.png",
        "test/cat/3.png",
        "test/dog/4.png",
    )
    source = hub(str(tmp_path / "repo"), "0" * 40)
    assert source.classes == ("cat", "dog")
    assert sorted(zip(values(source.splits["train"]), source.splits["train"].labels.tolist())) == [
        (0, 0),
        (1, 1),
        (2, 1),
    ]


def rows_that_name(root: Path, *paths: str) -> list[bytes | Path | Withheld]:
    """What comes of a hub dataset in ``root`` whose rows hold these paths and no bytes."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    images = pyarrow.array([{"bytes": None, "path": path} for path in paths], kind)
    rows = {"image": images, "label": list(range(len(paths)))}
    pq.write_table(pyarrow.table(rows), root / "data/train-00000-of-00001.parquet")
    source = hub(str(root), "0" * 40, splits={"train": "train"})
    return [image for image, _, _ in source.splits["train"]]


def test_a_row_of_a_hub_dataset_names_no_file_of_this_machine(tmp_path, hub_cache):
    root = tmp_path / "repo"
    place(tmp_path, "secret.png", "repo-2/secret.png", "repo/images/own.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop.png").symlink_to("loop.png")
    images = rows_that_name(
        root,
        str(tmp_path / "secret.png"),
        str(tmp_path / "repo-2/secret.png"),
        "../secret.png",
        str(root / "../secret.png"),
        "images/../images/own.png",
        str(root / "link.png"),
        "out/secret.png",
        "file:///etc/hostname",
        "zip://a.png::/tmp/x.zip",
        "~/secret.png",
        "loop.png",
        "images/own.png\0",
    )
    for image in images:
        with pytest.raises(Unreadable):
            decode(image)
    assert all(isinstance(image, Withheld) for image in images[:7])


def test_a_row_of_a_hub_dataset_may_name_its_own_files(tmp_path, hub_cache):
    root = tmp_path / "repo"
    place(tmp_path, "repo/images/0.png", "repo/images/1.png")
    (root / "link.png").symlink_to("images/1.png")
    images = rows_that_name(root, "images/0.png", str(root / "images/1.png"), "link.png")
    assert [int(decode(image).flat[0]) for image in images] == [0, 1, 1]


@pytest.mark.parametrize("kind", ["absolute", "above"])
def test_the_card_of_a_hub_dataset_names_no_file_of_this_machine(tmp_path, hub_cache, kind):
    table(tmp_path / "private.parquet", [0, 1])
    root = tmp_path / "repo"
    root.mkdir()
    named = str(tmp_path / "private.parquet") if kind == "absolute" else "../private.parquet"
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {named}\n---\n"
    (root / "README.md").write_text(card)
    with pytest.raises(UserError, match="repo.*(names a file outside of it|cannot be loaded)"):
        hub(str(root), "0" * 40, splits={"train": "train"})


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("no_proxy", "::1/128")]
)
def test_a_proxy_that_cannot_be_used_is_one_sentence(monkeypatch, name, value):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    huggingface_hub.close_session()  # it has read the variables
    try:
        with pytest.raises(UserError, match="^repo is 'a/b'; it cannot be loaded at revision .*:"):
            hub("a/b", "0" * 40)
    finally:
        huggingface_hub.close_session()


def test_code_of_a_hub_dataset_is_not_run(tmp_path, hub_cache):
    root = tmp_path / "repo"
    root.mkdir()
    (root / "repo.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="repo"):
        hub(str(root), "0" * 40)
    assert not (tmp_path / "ran").exists()
