"""Every source gives the images, labels and classes that are really there; splits and variants are what they claim."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.data.arrow import SplitReader
from prosmin.data.picture import Unreadable, Withheld, decode
from prosmin.fetching import sources, tables
from prosmin.fetching.folders import folder
from prosmin.fetching.sources import Images, Source, builtin
from prosmin.fetching.splits import balanced_subset, hold_out
from prosmin.fetching.variants import read_pixels
from prosmin.fetching.writing import divide, write_dataset


def picture(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    """A PNG of one colour, so that every image can be told by its value."""
    stream = io.BytesIO()
    colour = value if mode == "L" else (value, 0, 0)
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def values(images: Images) -> list[int]:
    return [int(decode(image).flat[0]) for image, _, _ in images]


def place(root: Path, *files: str) -> None:
    """PNG files whose grey value is their position in the list."""
    for value, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(value))


# --- builtin --------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_at_full_range():
    source = builtin("digits", 16, 0.2, 0.2)
    digits = load_digits()
    images = source.splits["train"]
    pixels = np.stack([image[..., 0] for image, _, _ in images])
    assert source.classes == tuple("0123456789")
    assert images.labels.tolist() == digits.target.tolist()
    assert pixels.dtype == np.uint8 and pixels.max() == 255
    assert np.abs(pixels / 255 - digits.images / 16).max() < 0.5 / 255 + 1e-9


@pytest.mark.parametrize("side", [16, 60])
def test_patches_tile_the_photographs_and_the_splits_are_strips_of_columns(side):
    source = builtin("patches", side, 0.2, 0.2)
    assert source.classes == ("china", "flower")
    last = -1
    for split in ("train", "val", "test"):
        found = [(label, image.tobytes()) for image, label, _ in source.splits[split]]
        columns = {}
        for label, photograph in enumerate(load_sample_images().images):
            for top in range(0, 427 - side + 1, side):
                for left in range(0, 640 - side + 1, side):
                    patch = photograph[top : top + side, left : left + side].tobytes()
                    columns.setdefault((label, patch), left // side)
        used = {columns[each] for each in found}
        assert used == set(range(last + 1, max(used) + 1)), (
            "columns of one split are contiguous and follow the last"
        )
        assert len(found) == len(used) * (427 // side) * 2, (
            "every patch of these columns is there once"
        )
        last = max(used)
    assert last == 640 // side - 1


# --- folders --------------------------------------------------------------------------------------


def test_class_folders_are_read_in_sorted_order_with_relative_names(tmp_path):
    place(tmp_path, "dog/2.png", "dog/10.PNG", "cat/deep/er/1.jpeg", "cat/0.png")
    source = folder(str(tmp_path))
    assert source.classes == ("cat", "dog")
    found = [
        (name, label, int(decode(image).flat[0])) for image, label, name in source.splits["train"]
    ]
    assert found == [
        ("cat/0.png", 0, 3),
        ("cat/deep/er/1.jpeg", 0, 2),
        ("dog/10.PNG", 1, 1),
        ("dog/2.png", 1, 0),
    ]


def test_split_folders_are_taken_as_they_are(tmp_path):
    place(
        tmp_path,
        "train/a/0.png",
        "train/b/1.png",
        "val/b/2.png",
        "val/a/3.png",
        "test/a/4.png",
        "test/b/5.png",
    )
    splits = divide(folder(str(tmp_path)), 0, 0.2, 0.2, {})
    assert {split: values(images) for split, images in splits.items()} == {
        "train": [0, 1],
        "val": [3, 2],
        "test": [4, 5],
    }


@pytest.mark.parametrize("where", ["", "train/"])
def test_loose_images_are_unlabelled(tmp_path, where):
    place(tmp_path, f"{where}b.png", f"{where}a.png", f"{where}notes.txt")
    source = folder(str(tmp_path))
    assert source.classes is None
    assert source.splits["train"].labels.tolist() == [-1, -1]
    assert values(source.splits["train"]) == [1, 0]


def test_hidden_files_other_files_and_loops_of_links_are_passed_over(tmp_path):
    place(tmp_path, "a/0.png", "a/.1.png", "a/2.txt", "a/.hidden/3.png", ".git/4.png", "b/5.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "b" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    source = folder(str(tmp_path))
    assert source.classes == ("a", "b")
    assert [name for _, _, name in source.splits["train"]] == ["a/0.png", "b/5.png", "b/up/0.png"]


def test_a_dangling_link_is_quarantined_and_not_a_crash(tmp_path):
    place(tmp_path / "in", *(f"{name}.png" for name in range(6)))
    (tmp_path / "in" / "x.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "out").mkdir()
    source = folder(str(tmp_path / "in"))
    manifest = write_dataset(
        tmp_path / "out", source, seed=0, max_unreadable=0.5, val_fraction=0, test_fraction=0
    )
    assert manifest["quarantined"] == [{"source": "x.png", "reason": "no such file or directory"}]


def test_the_order_of_the_file_system_does_not_matter(tmp_path):
    names = [f"{name}/{number}.png" for name in "ba" for number in range(12)]
    contents = {name: picture(value) for value, name in enumerate(names)}
    written = []
    for turn, order in enumerate((names, names[::-1])):
        root, out = tmp_path / f"in{turn}", tmp_path / f"out{turn}"
        out.mkdir()
        for name in order:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(contents[name])
        manifest = write_dataset(out, folder(str(root)), seed=3)
        written.append((manifest, {file.name: file.read_bytes() for file in out.iterdir()}))
    assert written[0] == written[1]


# --- Parquet --------------------------------------------------------------------------------------


def table(
    path: Path,
    labels,
    *,
    kind=None,
    image: str = "struct",
    start: int = 0,
    names=None,
    groups: int = 1000,
) -> str:
    contents = [picture(start + row) for row in range(len(labels))]
    if image == "struct":
        contents = [{"bytes": content, "path": None} for content in contents]
    columns = {"image": contents, "label": pyarrow.array(labels, kind)}
    built = pyarrow.table(columns)
    if names:
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        built = built.cast(features.arrow_schema)
    pq.write_table(built, path, row_group_size=groups)
    return str(path)


@pytest.mark.parametrize("image", ["struct", "binary"])
@pytest.mark.parametrize("kind", ["int64", "int8", "uint16"])
def test_parquet_images_and_labels_arrive_whole(tmp_path, image, kind):
    labels = [3, 1, 1, 3, 2, 1, 2]
    path = table(tmp_path / "a.parquet", labels, kind=kind, image=image, groups=3)
    source = tables.parquet({"train": path})
    assert source.classes == ("1", "2", "3")
    assert values(source.splits["train"]) == list(range(7))
    assert [source.classes[label] for label in source.splits["train"].labels] == [
        str(label) for label in labels
    ]


@given(st.sets(st.integers(0, 39)))
@settings(max_examples=30, deadline=None)
def test_any_rows_of_any_files_can_be_taken(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("shards")
    table(root / "train-0.parquet", [0] * 25, groups=7)
    table(root / "train-1.parquet", [1] * 15, start=25, groups=4)
    chosen = np.array(sorted(rows), dtype=np.int64)
    for path in (str(root), str(root / "train-*.parquet")):
        images = tables.parquet({"train": path}).splits["train"]
        assert len(images) == 40
        assert values(images.take(chosen)) == sorted(rows)
    names = [name for _, _, name in images.take(chosen)]
    assert names == [
        f"train-0.parquet:{row}" if row < 25 else f"train-1.parquet:{row - 25}"
        for row in sorted(rows)
    ]


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int8", "string")]
)
def test_text_labels_are_numbered_in_sorted_order(tmp_path, kind):
    path = table(tmp_path / "a.parquet", pyarrow.array(["dog", "cat", "dog"]).cast(kind))
    source = tables.parquet({"train": path, "test": path})
    assert source.classes == ("cat", "dog")
    assert source.splits["test"].labels.tolist() == [1, 0, 1]


def test_class_names_are_read_from_the_metadata_of_the_datasets_library(tmp_path):
    path = table(tmp_path / "a.parquet", [0, 1, 0], names=["plane", "bird"])
    source = tables.parquet({"train": path})
    assert source.classes == ("plane", "bird")
    assert source.splits["train"].labels.tolist() == [0, 1, 0]


def test_the_label_column_is_not_needed_for_unlabelled_images(tmp_path):
    path = table(tmp_path / "a.parquet", [-1, 7, 99])
    source = tables.parquet({"train": path}, label=None)
    assert source.classes is None
    assert source.splits["train"].labels.tolist() == [-1, -1, -1]
    assert values(source.splits["train"]) == [0, 1, 2]


# --- hub ------------------------------------------------------------------------------------------


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
    source = tables.hub(
        str(tmp_path / "repo"), "0" * 40, splits={"train": "train", "test": "validation"}
    )
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
    source = tables.hub(str(tmp_path / "repo"), "0" * 40)
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
    source = tables.hub(str(root), "0" * 40, splits={"train": "train"})
    return [image for image, _, _ in source.splits["train"]]


def test_a_row_of_a_hub_dataset_names_no_file_of_this_machine(tmp_path, hub_cache):
    root = tmp_path / "repo"
    place(tmp_path, "secret.png", "repo-2/secret.png", "repo/images/own.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop.png").symlink_to("loop.png")
    found = rows_that_name(
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
    for image in found:
        with pytest.raises(Unreadable):
            decode(image)
    assert all(isinstance(image, Withheld) for image in found[:7])


def test_a_row_of_a_hub_dataset_may_name_its_own_files(tmp_path, hub_cache):
    root = tmp_path / "repo"
    place(tmp_path, "repo/images/0.png", "repo/images/1.png")
    (root / "link.png").symlink_to("images/1.png")
    found = rows_that_name(root, "images/0.png", str(root / "images/1.png"), "link.png")
    assert [int(decode(image).flat[0]) for image in found] == [0, 1, 1]


@pytest.mark.parametrize("kind", ["absolute", "above"])
def test_the_card_of_a_hub_dataset_names_no_file_of_this_machine(tmp_path, hub_cache, kind):
    table(tmp_path / "private.parquet", [0, 1])
    root = tmp_path / "repo"
    root.mkdir()
    named = str(tmp_path / "private.parquet") if kind == "absolute" else "../private.parquet"
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {named}\n---\n"
    (root / "README.md").write_text(card)
    with pytest.raises(UserError, match="repo.*(names a file outside of it|cannot be loaded)"):
        tables.hub(str(root), "0" * 40, splits={"train": "train"})


def test_a_row_of_a_parquet_file_names_no_file(tmp_path):
    place(tmp_path, "own.png")
    rows = {"image": [{"bytes": None, "path": "own.png"}, {"bytes": b"", "path": "own.png"}]}
    pq.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    source = tables.parquet({"train": str(tmp_path / "a.parquet")}, label=None)
    for image, _, _ in source.splits["train"]:
        with pytest.raises(Unreadable, match="only the path of a file, which is not read"):
            decode(image)


def test_code_of_a_hub_dataset_is_not_run(tmp_path, hub_cache):
    root = tmp_path / "repo"
    root.mkdir()
    (root / "repo.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="repo"):
        tables.hub(str(root), "0" * 40)
    assert not (tmp_path / "ran").exists()


# --- splits ---------------------------------------------------------------------------------------


labels_of_classes = st.lists(st.integers(2, 40), min_size=1, max_size=6).flatmap(
    lambda sizes: st.permutations([label for label, size in enumerate(sizes) for _ in range(size)])
)


@given(labels_of_classes, st.floats(0.01, 0.9), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_held_out_parts_are_stratified_and_disjoint(labels, fraction, seed):
    labels = np.array(labels)
    kept, held = hold_out(labels, fraction, generator(seed, "test"), "test", None)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (np.diff(held) > 0).all() and (np.diff(kept) > 0).all()
    for label, size in Counter(labels.tolist()).items():
        count = (labels[held] == label).sum()
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1 or count in (1, size - 1)


def test_digits_are_split_as_scikit_learn_counts_them():
    splits = divide(builtin("digits", 16, 0.2, 0.2), 0, 0.2, 0.2, {})
    assert {split: len(images) for split, images in splits.items()} == {
        "train": 1149,
        "val": 288,
        "test": 360,
    }


def test_a_fraction_of_zero_makes_no_split():
    assert list(divide(builtin("digits", 16, 0.2, 0.2), 0, 0, 0.2, {})) == ["train", "test"]


def test_the_seed_alone_decides_the_split():
    def test_rows(seed: int, limit: dict[str, int]) -> list[str]:
        splits = divide(builtin("digits", 16, 0.2, 0.2), seed, 0.2, 0.2, limit)
        return [name for _, _, name in splits["test"]]

    assert test_rows(0, {}) == test_rows(0, {"train": 50})
    assert test_rows(0, {}) != test_rows(1, {})


@given(labels_of_classes, st.integers(1, 250), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_subset_is_as_balanced_as_the_classes_allow(labels, count, seed):
    labels = np.array(labels)
    rows = balanced_subset(labels, count, generator(seed, "limit"))
    assert len(set(rows.tolist())) == len(rows) == min(count, len(labels))
    sizes, taken = Counter(labels.tolist()), Counter(labels[rows].tolist())
    most = max(taken.values())
    assert all(taken[label] >= min(size, most - 1) for label, size in sizes.items())


def test_unlabelled_images_are_split_and_limited_at_random():
    images = Images(
        sources.no_labels(100),
        lambda rows: ((np.zeros((2, 2, 1), np.uint8), str(row)) for row in rows),
    )
    splits = divide(Source(None, {"train": images}), 0, 0.1, 0.25, {"train": 10})
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 10,
        "val": 8,
        "test": 25,
    }
    assert [name for _, _, name in splits["test"]] != [str(row) for row in range(25)]


# --- variants -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """transform -> the pixels of the test split of digits, and its labels; ``none`` is the origin."""

    def fetch(transform: str):
        out = tmp_path_factory.mktemp(transform)
        source = builtin("digits", 16, 0.2, 0.2)
        manifest = write_dataset(
            out, source, seed=0, transform=transform, limit={"train": 20, "val": 20}
        )
        reader = SplitReader(out / "test.arrow")
        assert not list(out.glob("*.part"))
        return (
            [read_pixels(reader, row) for row in range(len(reader))],
            reader.table["label"],
            manifest,
        )

    return {
        name: fetch(name) for name in ("none", "invert", "rotate90", "permute", "noise", "halves")
    }


@pytest.mark.parametrize("transform", ["invert", "rotate90", "permute", "noise", "halves"])
def test_variants_have_no_labels_and_keep_count_and_size(variants, transform):
    pixels, labels, manifest = variants[transform]
    assert labels.null_count == len(labels) == 360
    assert manifest["classes"] is None and manifest["splits"]["test"]["per_class"] is None
    assert {image.shape for image in pixels} == {(8, 8, 1)}


def test_invert_and_rotate90_are_those_of_pillow(variants):
    for before, inverted, turned in zip(
        *(variants[name][0] for name in ("none", "invert", "rotate90"))
    ):
        assert np.array_equal(before + inverted, np.full((8, 8, 1), 255))
        upright = Image.fromarray(before[..., 0])
        assert np.array_equal(
            turned[..., 0], np.asarray(upright.transpose(Image.Transpose.ROTATE_90))
        )


def test_permute_moves_the_pixels_of_all_images_in_one_way(variants):
    before, after = (np.stack(variants[name][0]).reshape(360, 64) for name in ("none", "permute"))
    # A position is known by the values it takes over all images; only always-empty positions are alike.
    columns = Counter(before[:, position].tobytes() for position in range(64))
    assert columns == Counter(after[:, position].tobytes() for position in range(64))
    assert not np.array_equal(before, after)


def test_noise_is_uniform_and_keeps_nothing_of_the_image(variants):
    before, after = (np.stack(variants[name][0]).astype(float) for name in ("none", "noise"))
    assert abs(after.mean() - 127.5) < 2 and abs(after.std() - 256 / 12**0.5) < 2
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.03
    assert len({image.tobytes() for image in after}) == 360


def test_halves_join_images_of_two_classes(variants):
    before, labels, _ = variants["none"]
    labels = labels.to_pylist()
    rights = {}
    for image, label in zip(before, labels):
        rights.setdefault(image[:, 4:].tobytes(), set()).add(label)
    for image, own, label in zip(variants["halves"][0], before, labels):
        assert np.array_equal(image[:, :4], own[:, :4])
        assert rights[image[:, 4:].tobytes()] - {label}


def test_variants_of_large_images_of_many_sizes_are_encoded(tmp_path):
    place_sizes = [(70 + row, 90 - row) for row in range(12)]
    (tmp_path / "in").mkdir()
    for row, size in enumerate(place_sizes):
        (tmp_path / "in" / f"{row:02}.png").write_bytes(picture(row * 20, size, "RGB"))
    for transform in ("halves", "rotate90", "permute", "noise"):
        out = tmp_path / transform
        out.mkdir()
        write_dataset(
            out,
            folder(str(tmp_path / "in")),
            seed=0,
            val_fraction=0,
            test_fraction=0,
            transform=transform,
        )
        reader = SplitReader(out / "train.arrow")
        assert reader.layout.encoding == "encoded"
        sizes = [read_pixels(reader, row).shape[:2] for row in range(12)]
        assert sizes == [size if transform == "rotate90" else size[::-1] for size in place_sizes]


# --- manifest -------------------------------------------------------------------------------------


def test_counts_sizes_and_checksums_of_the_manifest_are_those_of_the_files(tmp_path):
    place(tmp_path / "in", *(f"{name}/{number}.png" for name in "ab" for number in range(10)))
    (tmp_path / "in" / "a" / "0.png").write_bytes(picture(7, (70, 90)))
    (tmp_path / "out").mkdir()
    manifest = write_dataset(tmp_path / "out", folder(str(tmp_path / "in")), seed=0)
    assert manifest["image_sizes"] == {"height": [8, 90], "width": [8, 70]}
    assert manifest["classes"] == ["a", "b"] and manifest["channels"] == 1
    for split, facts in manifest["splits"].items():
        content = (tmp_path / "out" / f"{split}.arrow").read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest() and facts["bytes"] == len(
            content
        )
        labels = SplitReader(tmp_path / "out" / f"{split}.arrow").table["label"].to_pylist()
        assert facts["per_class"] == {"a": labels.count(0), "b": labels.count(1)}
        assert facts["count"] == len(labels) == {"train": 12, "val": 4, "test": 4}[split]


def test_duplicates_are_counted_within_and_across_splits(tmp_path):
    def images(*pairs: tuple[int, int]) -> Images:
        pixels, labels = zip(*pairs)
        return Images(
            np.array(labels),
            lambda rows: ((np.full((4, 4, 1), pixels[row], np.uint8), f"r{row}") for row in rows),
        )

    splits = {
        "train": images((1, 0), (2, 1), (1, 0), (3, 0), (1, 0)),
        "val": images((4, 0), (5, 1), (5, 0)),
        "test": images((3, 1), (1, 0), (6, 1)),
    }
    duplicates = write_dataset(tmp_path, Source(("a", "b"), splits), seed=0)["duplicates"]
    assert duplicates == {
        "within": {"train": 2, "val": 1, "test": 0},
        "across": {"train-val": 0, "train-test": 2, "val-test": 0},
        "conflicting_labels": 2,
        "examples": [
            ["train: r0", "train: r2", "train: r4", "test: r1"],
            ["train: r3", "test: r0"],
            ["val: r1", "val: r2"],
        ],
    }


def test_two_runs_write_the_same_bytes_and_another_seed_other_ones(tmp_path):
    def files(seed: int, turn: str) -> dict[str, bytes]:
        out = tmp_path / turn
        out.mkdir()
        write_dataset(out, builtin("digits", 16, 0.2, 0.2), seed=seed, transform="halves")
        return {file.name: file.read_bytes() for file in sorted(out.iterdir())}

    first = files(0, "first")
    assert first == files(0, "second")
    assert first != files(1, "third")
    assert set(first) == {"train.arrow", "val.arrow", "test.arrow"}
