"""Malformed Parquet files, datasets of the Hugging Face hub and labels of people."""

from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import yaml

from tests.stages.fetch.made import GOOD, HUB, PARQUET, named_table, paths_alone, picture, table
from tests.stages.fetch.malformed import malformed


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
