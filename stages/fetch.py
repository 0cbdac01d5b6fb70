"""Write the images of one dataset, ``python -m stages.fetch NAME``, as Arrow files.

Reads the source that ``fetch.NAME`` of ``params.yaml`` describes. Writes ``data/NAME/``
(``train.arrow``, ``val.arrow``, ``test.arrow`` and ``manifest.json``, all of them or nothing; a
split of more than 1 GiB in shards, ``train-00000-of-00002.arrow``) and the summary
``metrics/fetch/NAME.json``. A large set whose fetch was killed goes on behind its finished shards,
which are kept in ``.prosmin/fetch/NAME``.
"""

import logging
from pathlib import Path
from typing import Any

from prosmin.common.errors import ConfigError, UserError, nearest
from prosmin.common.files import whole_folder, write_json
from prosmin.fetching import folders, hub, listing, parquet, sources, writing
from stages.common.command import run
from stages.common.threads import cores
from stages.params.fetch import AnyDataset, Builtin, Dataset, Folder, Parquet
from stages.params.load import Params

# Endings of files that people keep beside images. Leaving them unread is worth no warning.
DOCUMENTS = {
    "", ".csv", ".htm", ".html", ".json", ".jsonl", ".mat", ".md", ".names", ".npy", ".npz", ".pdf",
    ".pkl", ".py", ".rst", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
}  # fmt: skip

SHARDS = Path(".prosmin/fetch")  # finished shards of a large set, until all of it is written

log = logging.getLogger("fetch")

# Settings that the manifest leaves out, because they do not decide the stored images. A change of
# the manifest would run all later stages anew.
OMITTED = {"path", "files", "max_unreadable", "human_labels"}

# Share of test images whose label most people chose, below which the rows probably do not match.
AGREEMENT = 0.5


def main(params: Params, name: str | None = None, *rest: str) -> None:
    there = ", ".join(params.fetch)
    if name is None or rest:
        raise UserError(
            f"name one dataset: python -m stages.fetch NAME, where NAME is one of {there}"
        )
    if name not in params.fetch:
        raise UserError(
            f"fetch of params.yaml names no dataset {name!r}; there are: {there}"
            f"{nearest(name, params.fetch)}"
        )
    settings = params.fetch[name]
    shared = {key: getattr(settings, key) for key in Dataset.model_fields}
    try:
        if settings.human_labels is not None:
            shared["human_labels"] = parquet.human_labels(settings.human_labels)
        source = open_source(settings)
        for note in writing.cautions(source, settings.test_fraction):
            log.warning("%s: %s", name, note)
        with whole_folder(Path("data", name)) as folder:
            facts = writing.write_dataset(
                folder,
                source,
                seed=params.seed,
                workers=cores(),
                keep=SHARDS / name,
                **shared,
            )
            kept = settings.model_dump(mode="json", exclude=OMITTED)
            if settings.short_side is None:
                kept.pop("short_side")  # so that manifests without it stay as they are
            manifest = {"name": name, "source": settings.source, **facts, "settings": kept}
            write_json(folder / "manifest.json", manifest)
    except ConfigError as error:
        raise ConfigError(f"{name}.{error.key}", error.value, error.allowed) from None
    except UserError as error:
        raise UserError(f"dataset {name}: {error}") from None
    warn(manifest)
    write_json(Path("metrics", "fetch", f"{name}.json"), summary(manifest))
    log.info("%s: %s", name, described(manifest))


def open_source(settings: AnyDataset) -> sources.Source:
    """Open the source that the settings of a dataset describe."""
    if isinstance(settings, Builtin):
        return sources.builtin(
            settings.name, settings.patch, settings.val_fraction, settings.test_fraction
        )
    if isinstance(settings, Folder):
        return folders.folder(settings.path, settings.splits, settings.classes)
    if isinstance(settings, Parquet):
        return parquet.parquet(settings.files, settings.image, settings.label)
    return hub.hub(
        settings.repo,
        settings.revision,
        settings.config,
        settings.splits,
        settings.image,
        settings.label,
    )


def warn(manifest: dict[str, Any]) -> None:
    """Warn of faults that would distort results on this dataset."""
    duplicates = manifest["duplicates"]
    if shared := {pair: count for pair, count in duplicates["across"].items() if count}:
        log.warning(
            "%s: images in more than one split: %s, as %s; %d of all repeated images have "
            "different labels (see manifest.json)",
            manifest["name"],
            ", ".join(f"{pair} {count}" for pair, count in shared.items()),
            " = ".join(duplicates["examples"][0]),
            duplicates["conflicting_labels"],
        )
    agreement = manifest.get("human_labels", {}).get("agreement", 1.0)
    if agreement < AGREEMENT:
        log.warning(
            "%s: most people chose the label of only %.1f %% of the test images; the rows of "
            "fetch.%s.human_labels must be those of the source, "
            "its columns in the order of the classes",
            *(manifest["name"], 100 * agreement, manifest["name"]),
        )
    if manifest["quarantined"]:
        count = len(manifest["quarantined"])
        log.warning(
            "%s: unreadable images left out: %d (see manifest.json)", manifest["name"], count
        )
    if endings := manifest["not_read"]["endings"]:
        count = sum(endings.values())
        log.log(
            logging.INFO if set(endings) <= DOCUMENTS else logging.WARNING,
            "%s: %d %s not read: %s",
            manifest["name"],
            count,
            "file was" if count == 1 else "files were",
            listing.counted(endings),
        )


def described(manifest: dict[str, Any], most: int = 10) -> str:
    """Summarise a manifest on one line.

    Example: ``30 images of 2 classes: cat, dog; train 20, val 4, test 6; converted: 2 grey``.

    most: number of classes to name.
    """
    classes = manifest["classes"]
    counts = {split: facts["count"] for split, facts in manifest["splits"].items()}
    parts = [f"{sum(counts.values())} images without labels"]
    if classes:
        names = ", ".join(classes[:most]) + (", …" if len(classes) > most else "")
        word = "class" if len(classes) == 1 else "classes"
        parts = [f"{sum(counts.values())} images of {len(classes)} {word}: {names}"]
    parts.append(", ".join(f"{split} {count}" for split, count in counts.items()))
    if converted := manifest["converted"]:
        parts.append(
            "converted: " + ", ".join(f"{count} {name}" for name, count in converted.items())
        )
    return "; ".join(parts)


def summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a manifest that is worth comparing between two versions of the data."""
    return {
        **{
            split: {"count": facts["count"], "sha256": facts["sha256"]}
            for split, facts in manifest["splits"].items()
        },
        "channels": manifest["channels"],
        "classes": len(manifest["classes"] or ()),
        "duplicates_across_splits": sum(manifest["duplicates"]["across"].values()),
        "quarantined": len(manifest["quarantined"]),
    }


if __name__ == "__main__":
    run("fetch", main)
