"""The stage as a program: good datasets are whole, malformed datasets one sentence.

Nothing is half-written.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from prosmin.data.dataset import load_split, read_manifest
from stages import fetch
from stages.common.command import run

ROOT = Path(__file__).parents[2]
GOOD = {"source": "builtin", "name": "digits"}


def picture(value: int, mode: str = "L", size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (size, size), value if mode == "L" else (value, value, 0)).save(stream, "PNG")
    return stream.getvalue()


def images(*files: str, mode: str = "L") -> None:
    for value, name in enumerate(files):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(picture(value, mode))


def classes(count: int = 6, root: str = "in") -> None:
    images(*(f"{root}/{name}/{number}.png" for name in ("cat", "dog") for number in range(count)))


def table(name: str = "in.parquet", labels: Any = (0, 1, 0, 1, 0, 1, 0, 1), **columns: Any) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    kind = columns.pop("kind", None)
    whole = {
        "image": [{"bytes": picture(row), "path": None} for row in range(len(labels))],
        "label": pyarrow.array(labels, kind),
        **columns,
    }
    pq.write_table(
        pyarrow.table({key: column for key, column in whole.items() if column is not None}), name
    )


def named_table(labels: list[int], names: list[str], name: str = "in.parquet") -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    rows = {
        "image": [{"bytes": picture(row), "path": None} for row in range(len(labels))],
        "label": labels,
    }
    pq.write_table(pyarrow.table(rows).cast(features.arrow_schema), name)


def paths_alone(name: str) -> pyarrow.Array:
    """Eight rows that hold no bytes, but the absolute path of a file."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.array([{"bytes": None, "path": str(Path(name).resolve())}] * 8, kind)


FOLDER = {"source": "folder", "path": "in"}
PARQUET = {"source": "parquet", "files": {"train": "in.parquet"}}
HUB = {"source": "hub", "repo": "in", "revision": "0" * 40, "splits": {"train": "train"}}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder with the repository's params, in which ``mine`` is the dataset under test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


def configure(mine: dict[str, Any]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["fetch"]["mine"] = mine
    Path("params.yaml").write_text(yaml.safe_dump(params))


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``python -m stages.fetch`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["fetch", *arguments])
    try:
        run("fetch", fetch.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start_process(
    *arguments: str, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": "cache"}
    command = [sys.executable, *python, "-m", "stages.fetch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


# --- malformed datasets ---------------------------------------------------------------------------

MALFORMED: dict[str, tuple[dict[str, Any], Callable[[], Any], str]] = {}


def malformed(settings: dict[str, Any], message: str):
    """Register a function that lays out a malformed dataset, with the words its error must hold."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        MALFORMED[make.__name__] = (settings, make, message)
        return make

    return register


@malformed(FOLDER, "params.yaml: fetch.mine.path is 'in'; there is no such folder")
def missing_folder(): ...


@malformed(FOLDER, "in holds no images; known endings: .apng, ")
def folder_without_images():
    images("in/notes.txt", "in/sub/more.txt")


@malformed(FOLDER, "class folder in/bird holds no images; remove it or fill it")
def empty_class_folder():
    classes()
    Path("in/bird").mkdir()


@malformed(FOLDER, "; not read: 2 .heic, 1 .txt")
def class_folder_of_files_that_are_not_read():
    classes()
    images("in/bird/0.heic", "in/bird/deep/1.HEIC", "in/bird/notes.txt")


@malformed(FOLDER, "in holds both images (0.png) and class folders (cat); move the images into one")
def images_beside_class_folders():
    classes()
    images("in/0.png")


@malformed(
    FOLDER, "in/extra stands beside the split 'train' but is no split; allowed: train, val, test"
)
def misnamed_split_folder():
    classes(root="in/train")
    classes(root="in/extra")


@malformed(FOLDER, "Val, validation in in are all names of the split 'val'; say under splits which")
def two_folders_for_one_split():
    for name in ("train", "Val", "validation"):
        classes(root=f"in/{name}")


@malformed(FOLDER, "in holds but one folder, pets, in which the splits are (Testing, Training)")
def path_that_is_one_level_too_high():
    classes(root="in/pets/Training")
    classes(root="in/pets/Testing")


@malformed(
    {**FOLDER, "splits": {"test": "tests"}},
    "fetch.mine.splits.test is 'tests'; there is no such folder; in holds test, "
    "train (did you mean",
)
def split_folder_that_is_not_there():
    classes(root="in/train")
    classes(root="in/test")


@malformed({**FOLDER, "splits": {"tset": "test"}}, "fetch.mine.splits.tset is not a known key (did")
def unknown_split():
    classes()


@malformed({**FOLDER, "classes": "leaves"}, "fetch.mine.classes is 'leaves'; allowed: top, leaf")
def unknown_classes():
    classes()


@malformed(
    FOLDER, "class folder 'dogs' stands in in/test but not in in/train (did you mean 'dog'?)"
)
def classes_that_differ_between_splits():
    classes(root="in/train")
    images("in/test/cat/0.png", "in/test/dogs/1.png")


@malformed(
    FOLDER, "in/train has class folders, but in/test has none; give all splits labels, or none"
)
def labelled_and_unlabelled_splits():
    classes(root="in/train")
    images("in/test/0.png")


@malformed(
    FOLDER,
    "1 of 12 images cannot be read, more than max_unreadable (0.01) allows; the "
    "first is dog/3.png (image",
)
def truncated_image():
    classes()
    content = picture(3, size=40)
    Path("in/dog/3.png").write_bytes(content[: len(content) - 30])


@malformed(
    {**FOLDER, "max_unreadable": 0.2},
    "3 of 12 images cannot be read, more than max_unreadable (0.2) allows",
)
def zero_byte_images():
    classes()
    for number in range(3):
        Path(f"in/cat/{number}.png").write_bytes(b"")


@malformed({**FOLDER, "max_unreadable": 1.0}, "no image can be read")
def nothing_but_unreadable_images():
    classes()
    for file in Path("in").rglob("*.png"):
        file.write_text("no image")


@malformed(
    {**FOLDER, "max_unreadable": 0.5, "limit": {"train": 2}}, "of class 'cat' in train can be read"
)
def class_of_unreadable_images():
    classes(root="in/train")
    classes(root="in/test")
    for file in Path("in/train/cat").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:50])


@malformed(
    FOLDER,
    "class 'bird' has only 1 image left to share between train and test; add images "
    "or set test_fraction",
)
def class_of_one_image():
    classes()
    images("in/bird/0.png")


@malformed(
    FOLDER,
    "class 'cat' has only 1 image left to share between train and val; add images or "
    "set val_fraction",
)
def too_few_images_for_two_held_out_splits():
    classes(2)


@malformed(FOLDER, "there is only 1 image left to share between train and test")
def one_unlabelled_image():
    images("in/0.png")


@malformed(
    {**FOLDER, "limit": {"train": 1}},
    "fetch.mine.limit.train is 1; must be at least the number of classes, 2",
)
def limit_below_the_number_of_classes():
    classes()


@malformed(
    {**FOLDER, "val_fraction": 0, "limit": {"val": 5}},
    "fetch.mine.limit.val is 5; there is no such split; there",
)
def limit_of_a_split_that_is_not_there():
    classes()


@malformed(
    {**FOLDER, "transform": "halves"},
    "transform halves joins images of different classes, but split 'train'",
)
def halves_of_one_class():
    images(*(f"in/cat/{number}.png" for number in range(9)))


@malformed(
    {**GOOD, "name": "patches", "patch": 128, "test_fraction": 0.79},
    "fetch.mine.patch is 128; the photographs",
)
def patches_too_large_for_their_splits(): ...


@malformed(
    PARQUET,
    "fetch.mine.files.train is 'in.parquet'; there is no such Parquet file, nor a "
    "folder or pattern",
)
def missing_parquet_file(): ...


@malformed(PARQUET, "in.parquet cannot be read as Parquet: ")
def other_file_named_parquet():
    Path("in.parquet").write_text("image,label\n")


@malformed(PARQUET, "in.parquet cannot be read as Parquet: ")
def empty_parquet_file():
    Path("in.parquet").write_bytes(b"")


@malformed(PARQUET, "in.parquet cannot be read as Parquet: ")
def parquet_file_cut_short():
    table()
    content = Path("in.parquet").read_bytes()
    Path("in.parquet").write_bytes(content[: len(content) // 2])


@malformed(PARQUET, "in.parquet cannot be read as Parquet: ")
def parquet_file_with_a_damaged_page():
    table()
    content = bytearray(Path("in.parquet").read_bytes())
    content[4:60] = bytes(56)
    Path("in.parquet").write_bytes(content)


@malformed(
    {**PARQUET, "image": "imag"},
    "image is 'imag'; in.parquet has no such column; there are: image, label (did you",
)
def missing_image_column():
    table()


@malformed(
    PARQUET,
    "label is 'label'; in.parquet has no such column; there are: image, labels (did "
    "you mean 'labels'?); null",
)
def missing_label_column():
    table()
    content = pq.read_table("in.parquet")
    pq.write_table(content.rename_columns(["image", "labels"]), "in.parquet")


@malformed(
    PARQUET,
    "column 'image' of in.parquet holds string; it must hold encoded images: binary, "
    "or a struct with bytes",
)
def image_column_of_text():
    table(labels=[0, 1], image=["a.png", "b.png"])


@malformed(
    PARQUET, "column 'image' of in.parquet holds struct<path: string>; it must hold encoded images"
)
def image_column_without_bytes():
    table(labels=[0, 1], image=[{"path": "a.png"}] * 2)


@malformed(
    PARQUET,
    "label column 'label' of train holds 2 in row 3; there are 2 class names, so labels end at 1",
)
def label_out_of_range():
    named_table([0, 1, 0, 1], ["cat", "dog"])
    content = pq.read_table("in.parquet")
    labels = pyarrow.array([0, 1, 0, 2], "int64")
    pq.write_table(content.set_column(1, content.schema.field("label"), labels), "in.parquet")


@malformed(PARQUET, "label column 'label' of train holds -3 in row 2; labels start at 0")
def negative_label():
    table(labels=[0, 1, -3, 1])


@malformed(PARQUET, "labels start at 0; set label to null if the images are unlabelled")
def labels_that_stand_for_none():
    table(labels=[-1] * 4)


@malformed(PARQUET, "label column 'label' of train holds double; it must hold integers or text")
def float_labels():
    table(labels=[0.0, 1.0])


@malformed(
    PARQUET,
    "label column 'label' of train is empty in 2 of 5 rows, first in row 1; label "
    "all images, or set",
)
def labels_that_are_partly_missing():
    table(labels=[0, None, 1, None, 1])


@malformed(PARQUET, "class 'bird' has no images in train")
def declared_class_without_images():
    named_table([0, 1] * 5, ["cat", "dog", "bird"])


@malformed(
    {**PARQUET, "files": {"train": "in.parquet", "test": "test.parquet"}},
    "train has images of class '2', but test",
)
def class_that_test_lacks():
    table(labels=[0, 1, 2] * 3)
    table("test.parquet", labels=[0, 1, 1])


@malformed(
    {**PARQUET, "files": {"train": "in.parquet", "test": "test.parquet"}},
    "test has images of class 'fox', but",
)
def class_that_train_lacks():
    table(labels=["cat", "dog"] * 3)
    table("test.parquet", labels=["cat", "fox", "dog"])


@malformed(
    {**PARQUET, "files": {"train": "in.parquet", "test": "test.parquet"}},
    "holds integers in one split and text in",
)
def labels_of_two_types():
    table()
    table("test.parquet", labels=["cat", "dog"])


@malformed(
    {**PARQUET, "files": {"train": "in.parquet", "test": "test.parquet"}},
    "give the classes different names",
)
def class_names_in_another_order():
    named_table([0, 1] * 3, ["cat", "dog"])
    named_table([0, 1], ["dog", "cat"], "test.parquet")


@malformed(PARQUET, "split 'train' has no images")
def table_without_rows():
    table(labels=pyarrow.array([], "int64"), image=pyarrow.array([], pyarrow.binary()))


@malformed(
    PARQUET,
    "2 of 8 images cannot be read, more than max_unreadable (0.01) allows; the first "
    "is in.parquet:1 (the",
)
def missing_image_bytes():
    table(image=[picture(row) if row not in (1, 4) else None for row in range(8)])


@malformed(PARQUET, "(the row holds no bytes, only the path of a file, which is not read)")
def paths_instead_of_bytes():
    Path("secret.png").write_bytes(picture(9))
    table(image=paths_alone("secret.png"))


@malformed(HUB, "(the row names a file outside the dataset, which is not read)")
def paths_in_a_hub_dataset_that_lead_out_of_it():
    Path("secret.png").write_bytes(picture(9))
    table("in/data/train-00000-of-00001.parquet", image=paths_alone("secret.png"))


@malformed(PARQUET, "label column 'label' of train is damaged or not in UTF-8")
def labels_that_are_not_utf8():
    content = pyarrow.array([b"cat", b"caf\xe9"] * 4)
    table(labels=content.view(pyarrow.string()))


@malformed(
    {**HUB, "repo": "nobody/nothing"},
    "fetch.mine.repo is 'nobody/nothing'; it cannot be loaded at revision 000",
)
def hub_dataset_out_of_reach(): ...


@malformed(
    {**HUB, "splits": {"train": "trian"}},
    "fetch.mine.splits.train is 'trian'; in has: train (did you mean 'train'?)",
)
def unknown_hub_split():
    table("in/data/train-00000-of-00001.parquet")


@malformed(
    {**HUB, "label": "fine_label"},
    "split 'train' of in has no such column; there are: image, label (did you mean",
)
def missing_hub_column():
    table("in/data/train-00000-of-00001.parquet")


@malformed(
    {**HUB, "config": "larg"},
    "fetch.mine.config is 'larg'; in has: large, small (did you mean 'large'?)",
)
def unknown_hub_config():
    table("in/large/train.parquet")
    configs = [
        {"config_name": name, "data_files": "large/*.parquet"} for name in ("large", "small")
    ]
    Path("in/README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")


@malformed(
    {**GOOD, "human_labels": "people.parquet"},
    "fetch.mine.human_labels is 'people.parquet'; there is no such Parquet file",
)
def missing_labels_of_people(): ...


@malformed(
    {**GOOD, "human_labels": "people.parquet"},
    "fetch.mine.human_labels is '8 rows'; the train split of the source has 1797 images",
)
def labels_of_too_few_people():
    pq.write_table(pyarrow.table({f"p{label}": [0.1] * 8 for label in range(10)}), "people.parquet")


def assert_one_clear_error(text: str, message: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], text
    assert "mine" in lines[0]
    assert "Traceback" not in text


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_dataset_is_one_clear_error_and_leaves_what_was_there(
    workspace, monkeypatch, capsys, case
):
    settings, make, message = MALFORMED[case]
    make()
    configure(settings)
    Path("data/mine").mkdir(parents=True)
    Path("data/mine/manifest.json").write_text("fetched before")
    assert start(monkeypatch, "mine") == 2
    assert_one_clear_error(capsys.readouterr().err, message)
    assert os.listdir("data") == ["mine"] and os.listdir("data/mine") == ["manifest.json"]
    assert Path("data/mine/manifest.json").read_text() == "fetched before"
    assert not Path("metrics").exists()


@pytest.mark.parametrize(
    "case", ["missing_folder", "truncated_image", "float_labels", "hub_dataset_out_of_reach"]
)
def test_a_process_given_a_malformed_dataset_exits_with_2_and_leaves_nothing(workspace, case):
    settings, make, message = MALFORMED[case]
    make()
    configure(settings)
    done = start_process("mine")
    assert done.returncode == 2 and not done.stdout
    assert_one_clear_error(done.stderr, message)
    assert not Path("data").exists() or not os.listdir("data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one dataset: python -m stages.fetch NAME, where NAME is one of digits, "),
        (("digits", "patches"), "name one dataset"),
        (("digit",), "fetch of params.yaml names no dataset 'digit'; there are: digits, "),
        (("mien",), "(did you mean 'mine'?)"),
        (("../mine",), "names no dataset '../mine'"),
    ],
)
def test_the_dataset_must_be_one_of_those_in_params(
    workspace, monkeypatch, capsys, arguments, message
):
    configure(GOOD)
    assert start(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("data").exists()


# --- good datasets --------------------------------------------------------------------------------


def test_a_process_writes_the_dataset_its_manifest_and_its_metrics_without_torch(workspace):
    configure(GOOD)
    done = start_process("mine", python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyarrow" in imported and not {"torch", "datasets", "timm", "dvc", "prefect"} & imported
    assert sorted(os.listdir("data/mine")) == [
        "manifest.json",
        "test.arrow",
        "train.arrow",
        "val.arrow",
    ]
    manifest = read_manifest("data/mine")
    assert (
        manifest["name"] == "mine"
        and manifest["source"] == "builtin"
        and manifest["settings"]["name"] == "digits"
    )
    metrics = json.loads(Path("metrics/fetch/mine.json").read_text())
    assert metrics == {
        **{
            split: {"count": count, "sha256": manifest["splits"][split]["sha256"]}
            for split, count in (("train", 1149), ("val", 288), ("test", 360))
        },
        "channels": 1,
        "classes": 10,
        "duplicates_across_splits": 0,
        "quarantined": 0,
    }
    assert str(workspace) not in Path("data/mine/manifest.json").read_text()


def test_the_same_images_come_from_a_folder_from_parquet_and_from_the_hub(workspace, monkeypatch):
    classes(root="in/train")
    classes(3, root="in/test")
    for split in ("train", "test"):
        files = sorted(Path("in", split).rglob("*.png"))
        contents = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        table(
            f"hub/data/{split}-00000-of-00001.parquet",
            [file.parent.name for file in files],
            image=contents,
        )
    paths = {split: f"hub/data/{split}-00000-of-00001.parquet" for split in ("train", "test")}
    loaded = []
    for settings in (
        FOLDER,
        {**PARQUET, "files": paths},
        {**HUB, "repo": "hub", "splits": {"train": "train", "test": "test"}},
    ):
        configure(settings)
        assert start(monkeypatch, "mine") == 0
        loaded.append([load_split("data/mine", split) for split in ("train", "val", "test")])
    for splits in loaded[1:]:
        for first, other in zip(loaded[0], splits):
            assert np.array_equal(first.images, other.images) and np.array_equal(
                first.labels, other.labels
            )
            assert first.classes == other.classes == ("cat", "dog")


def test_grey_among_rgb_becomes_rgb_and_is_counted(workspace, monkeypatch, caplog):
    """In raw pixels and in encoded files alike; what is left out is not counted."""
    for side in (8, 80):
        shutil.rmtree("in", ignore_errors=True)
        for name in ("cat", "dog"):
            Path("in", name).mkdir(parents=True)
            for number in range(10):
                mode = "L" if number < 3 else "RGB"
                Path("in", name, f"{number}.png").write_bytes(picture(number * 20, mode, side))
        Path("in/dog/0.png").write_bytes(picture(0, "L", side)[:-30])
        configure({**FOLDER, "val_fraction": 0, "test_fraction": 0, "max_unreadable": 0.1})
        with caplog.at_level("INFO"):
            assert start(monkeypatch, "mine") == 0
        manifest = read_manifest("data/mine")
        assert manifest["channels"] == 3 and manifest["converted"] == {"grey": 5}
        assert manifest["encoding"] == ("raw" if side == 8 else "encoded")
        split = load_split("data/mine", "train")
        assert split.images.shape == (19, 3, side, side)
        assert (split.images[1] == 20).all()  # cat/1.png, grey
        assert split.images[4, :, 0, 0].tolist() == [80, 80, 0]
        said = "mine: 19 images of 2 classes: cat, dog; train 19; converted: 5 grey"
        assert caplog.messages[-1] == said


def test_grey_images_alone_stay_grey(workspace, monkeypatch):
    classes()
    configure(FOLDER)
    assert start(monkeypatch, "mine") == 0
    manifest = read_manifest("data/mine")
    assert manifest["channels"] == 1 and manifest["converted"] == {}


def test_variants_of_grey_among_rgb_are_rgb(workspace, monkeypatch):
    for side in (8, 80):
        for number in range(12):
            Path("in").mkdir(exist_ok=True)
            mode = "L" if number % 2 else "RGB"
            Path("in", f"{number:02}.png").write_bytes(picture(number, mode, side))
        for transform in ("halves", "rotate90", "permute", "noise", "invert"):
            configure({**FOLDER, "transform": transform})
            assert start(monkeypatch, "mine") == 0
            assert load_split("data/mine", "train").images.shape[1:] == (3, side, side)


def test_what_is_not_read_and_what_looks_like_a_slip_is_said_at_fetch(
    workspace, monkeypatch, caplog
):
    for name in ("cat", "dog"):
        images(*(f"in/data/{name}/{number}.png" for number in range(6)))
    images("in/data/cat/0.heic", "in/data/dog/1.heic", "in/data/labels.csv")
    configure(FOLDER)
    with caplog.at_level("INFO"):
        assert start(monkeypatch, "mine") == 0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0].startswith("mine: there is only one class, in/data, which holds the folders")
    assert warnings[-1] == "mine: 3 files were not read: 2 .heic, 1 .csv"
    assert read_manifest("data/mine")["not_read"]["endings"] == {".heic": 2, ".csv": 1}
    assert str(workspace) not in Path("data/mine/manifest.json").read_text()
    configure({**FOLDER, "classes": "leaf"})
    for file in Path("in").rglob("*.heic"):
        file.unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        assert start(monkeypatch, "mine") == 0
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels["mine: 1 file was not read: 1 .csv"] == "INFO"
    assert "mine: 12 images of 2 classes: cat, dog; train 7, val 2, test 3" in levels


def test_all_cores_of_the_share_and_no_more_decode(workspace, monkeypatch):
    asked = []
    kept = fetch.writing.write_dataset
    monkeypatch.setenv("PROSMIN_CORES", "3")
    monkeypatch.setattr(
        fetch.writing,
        "write_dataset",
        lambda *a, **k: (asked.append(k["workers"]), kept(*a, **k))[1],
    )
    configure(GOOD)
    assert start(monkeypatch, "mine") == 0
    assert asked == [3]


def test_fetching_again_replaces_the_dataset_as_a_whole(workspace, monkeypatch):
    configure(GOOD)
    assert start(monkeypatch, "mine") == 0
    configure({**GOOD, "val_fraction": 0, "limit": {"train": 30}})
    assert start(monkeypatch, "mine") == 0
    assert sorted(os.listdir("data/mine")) == ["manifest.json", "test.arrow", "train.arrow"]
    assert read_manifest("data/mine")["splits"]["train"]["per_class"] == {
        str(digit): 3 for digit in range(10)
    }
    assert os.listdir("data") == ["mine"]


def test_repeated_and_unreadable_images_are_said_once_in_the_log(workspace, monkeypatch, caplog):
    classes(20, root="in/train")
    classes(20, root="in/test")
    shutil.copy("in/train/cat/0.png", "in/test/dog/0.png")
    Path("in/train/dog/19.png").write_bytes(b"")
    configure({**FOLDER, "val_fraction": 0, "max_unreadable": 0.1})
    with caplog.at_level("WARNING"):
        assert start(monkeypatch, "mine") == 0
    shared = [
        record.message for record in caplog.records if "more than one split" in record.message
    ]
    assert (
        len(shared) == 1
        and "train-test 38" in shared[0]
        and "1 of all repeated images have different labels" in shared[0]
    )
    assert (
        "left out dog" not in caplog.text
        and "left out train/dog/19.png: the file is empty" in caplog.text
    )
    assert "unreadable images left out: 1" in caplog.text


def test_the_same_images_elsewhere_give_the_same_files(workspace, monkeypatch):
    """Results are computed anew when the files of a dataset differ, not when its origin does."""
    classes()
    table()

    def left(settings):
        configure(settings)
        assert start(monkeypatch, "mine") == 0
        return {path.name: path.read_bytes() for path in Path("data/mine").iterdir()}

    first = (
        left({"source": "folder", "path": "in"}),
        left({"source": "parquet", "files": {"train": "in.parquet"}}),
    )
    os.makedirs("elsewhere")
    os.rename("in", "elsewhere/images")
    os.rename("in.parquet", "elsewhere/in.parquet")
    moved = {"source": "parquet", "files": {"train": "elsewhere/in.parquet"}, "max_unreadable": 0.5}
    assert (
        left({"source": "folder", "path": str(workspace / "elsewhere/images")}),
        left(moved),
    ) == first


def test_labels_of_people_that_contradict_the_labels_are_warned_of(workspace, monkeypatch, caplog):
    """Everybody chose class 0, which is the label of a tenth of the digits."""
    columns = {f"p{label}": [float(label == 0)] * 1797 for label in range(10)}
    pq.write_table(pyarrow.table(columns), "people.parquet")
    configure({**GOOD, "human_labels": "people.parquet"})
    assert start(monkeypatch, "mine") == 0
    agreement = read_manifest("data/mine")["human_labels"]["agreement"]
    assert f"label of only {100 * agreement:.1f} % of the test images" in caplog.text
    assert "people.parquet" not in Path("data/mine/manifest.json").read_text()
