"""A source of images: datasets of the Hugging Face hub."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from prosmin.common.errors import ConfigError, nearest
from prosmin.data.picture import AnyImage, Withheld
from prosmin.fetching.columns import check_columns, class_numbers, image_content
from prosmin.fetching.sources import Images, Rows, Source, no_labels

if TYPE_CHECKING:
    import datasets

_BATCH = 256  # rows read at a time


def hub(
    repo: str,
    revision: str,
    config: str | None = None,
    splits: Mapping[str, str] | None = None,
    image: str = "image",
    label: str | None = "label",
) -> Source:
    """Read a dataset of the Hugging Face hub, or a local folder in its layout.

    Code of the dataset is never run.

    repo: ``owner/name`` or a folder.
    revision: the commit, so that the data cannot change under the same settings.
    config: its subset, needed where it has several.
    splits: by our name of a split its name in the dataset.
    image, label: columns, as for ``prosmin.fetching.parquet``.

    Raises ``UserError`` for a dataset that cannot be loaded or lacks a split or column.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    splits = splits or {"train": "train", "test": "test"}
    loaded = _load(repo, revision, config)
    tables = {}
    for split, theirs in splits.items():
        if theirs not in loaded:
            allowed = f"{repo} has: {', '.join(loaded)}{nearest(theirs, loaded)}"
            raise ConfigError(f"splits.{split}", theirs, allowed)
        table = loaded[theirs]
        check_columns(f"split {theirs!r} of {repo}", table.features.arrow_schema, image, label)
        if isinstance(table.features[image], datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        tables[split] = table.with_format("arrow")
    if label is None:
        classes, labels = None, {split: no_labels(len(table)) for split, table in tables.items()}
    else:
        columns = {
            split: table.select_columns([label])[:][label] for split, table in tables.items()
        }
        first = next(iter(tables.values()))
        names = getattr(first.features[label], "names", None)
        classes, labels = class_numbers(columns, label, names)
    own = _own_folders(repo, revision)
    images = {
        split: Images(labels[split], _reader(table, image, splits[split], own))
        for split, table in tables.items()
    }
    return Source(classes, images)


def _load(repo: str, revision: str, config: str | None) -> "datasets.DatasetDict":
    import datasets
    from httpx import InvalidURL

    try:
        builder = datasets.load_dataset_builder(repo, name=config, revision=revision)
        _check_own_files(repo, builder)
        builder.download_and_prepare()
        return builder.as_dataset()
    except (
        ImportError,  # a proxy of a kind that the hub's client does not know
        InvalidURL,
        ValueError,
        RuntimeError,
        OSError,
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
    ) as error:
        if "BuilderConfig" in str(error) or "Config name is missing" in str(error):
            options = re.findall(r"'([^']+)'", str(error).partition("[")[2].partition("]")[0])
            allowed = f"{repo} has: {', '.join(options)}{nearest(str(config), options)}"
            raise ConfigError("config", config, allowed) from None
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        allowed = f"it cannot be loaded at revision {revision}: {why}"
        raise ConfigError("repo", repo, allowed) from None


# --- files that rows name -------------------------------------------------------------------------


def _own_folders(repo: str, revision: str) -> tuple[Path, Path]:
    """Return where relative paths in rows start, and the folder that no path may lead out of."""
    if Path(repo).is_dir():
        return Path(repo).resolve(), Path(repo).resolve()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="dataset"))
    return cache / "snapshots" / revision, cache.resolve()


def _check_own_files(repo: str, builder: "datasets.DatasetBuilder") -> None:
    """Raise ``ConfigError`` where the card of a dataset names files of others."""
    local = Path(repo).is_dir()
    named = (name for files in (builder.config.data_files or {}).values() for name in files)
    for name in named:
        place = str(name).rpartition("::")[2]  # for a file in an archive, the archive
        if local:
            own = "://" not in place and Path(place).resolve().is_relative_to(Path(repo).resolve())
        else:
            own = place.startswith("hf://")
        if not own:
            allowed = f"its card names a file outside of it, {name}, which is not read"
            raise ConfigError("repo", repo, allowed)


def _own_file(path: str, own: tuple[Path, Path]) -> AnyImage:
    """Return the file that a row names in place of its bytes, if it belongs to the dataset."""
    start, limit = own
    file = start / path
    try:
        real = file.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a null byte
        return Withheld("the row names a file that cannot be found")
    if ".." in file.parts or not real.is_relative_to(limit):
        return Withheld("the row names a file outside the dataset, which is not read")
    return real


def _reader(
    table: "datasets.Dataset", image: str, name: str, own: tuple[Path, Path]
) -> Callable[[Rows], Iterator[tuple[AnyImage, str]]]:
    column = table.select_columns([image])

    def content_of(value: Any) -> AnyImage:
        if isinstance(value, dict) and value["bytes"] is None and value.get("path"):
            return _own_file(value["path"], own)
        return image_content(value)

    def read(rows: Rows) -> Iterator[tuple[AnyImage, str]]:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH].tolist()
            for row, value in zip(chosen, column[chosen][image]):
                yield content_of(value.as_py()), f"{name}:{row}"

    return read
