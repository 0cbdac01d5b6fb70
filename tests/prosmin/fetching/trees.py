"""Folders of images that several tests of folders share."""

from pathlib import Path

from PIL import Image

from prosmin.fetching.sources import Source


def place(root: Path, *files: str) -> str:
    """Write files: PNGs whose grey value is their position in the list, text for other endings."""
    for value, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("L", (8, 8), value).save(root / name)
        else:
            (root / name).write_text("no image")
    return str(root)


def tree(root: Path, folders: str, count: int = 3) -> str:
    """Write ``count`` images into each of these folders, whose names are joined by blanks."""
    return place(
        root, *(f"{name}/{number}.png" for name in folders.split() for number in range(count))
    )


def names(source: Source) -> dict[str, list[str]]:
    """Return the names of the images of each split."""
    return {split: [name for _, _, name in images] for split, images in source.splits.items()}
