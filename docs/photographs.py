"""Make the folders of the tutorial: ``python docs/photographs.py PHOTOS NEW``.

PHOTOS gets square pieces of five photographs, a folder per photograph. NEW gets other pieces of
them, and beside these a few files that do not belong there: pieces of two photographs of other
things, a piece that is there twice, and a file that breaks off.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from sklearn.datasets import load_sample_images

IMAGES = Path(skimage.data_dir)
PALACE, FLOWER = load_sample_images().images  # by danielbuechele and vultilion, CC BY 2.0
# In scikit-image, and in the public domain or CC0.
CLASSES = {
    "cat": IMAGES / "chelsea.png",
    "coffee": IMAGES / "coffee.png",
    "rocket": IMAGES / "rocket.jpg",
    "flower": FLOWER,
    "palace": PALACE,
}
OTHER = {"galaxies": IMAGES / "hubble_deep_field.jpg", "retina": IMAGES / "retina.jpg"}
SIDES = (96, 160)  # pixels of a piece
TRAIN, TEST, PLANTED = 120, 12, 4  # pieces of a photograph


def pieces(picture: Path | np.ndarray, count: int, rng: np.random.Generator) -> list[Image.Image]:
    """Squares of a photograph, at random places."""
    image = Image.open(picture) if isinstance(picture, Path) else Image.fromarray(picture)
    image = image.convert("RGB")
    cut = []
    for _ in range(count):
        side = int(rng.integers(*SIDES))
        left, top = (int(rng.integers(length - side)) for length in image.size)
        cut.append(image.crop((left, top, left + side, top + side)))
    return cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder to make, for training")
    parser.add_argument("new", type=Path, help="folder to make, of images to predict")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    given.new.mkdir(parents=True)
    for name, picture in CLASSES.items():
        (given.photos / name).mkdir(parents=True)
        for place, piece in enumerate(pieces(picture, TRAIN + TEST, rng)):
            folder, start = (given.photos / name, "") if place < TRAIN else (given.new, f"{name}-")
            piece.save(folder / f"{start}{place:03}.jpg", quality=90)
    for name, picture in OTHER.items():
        for place, piece in enumerate(pieces(picture, PLANTED, rng)):
            piece.save(given.new / f"{name}-{place}.jpg", quality=90)
    whole = given.new / f"cat-{TRAIN}.jpg"
    Image.open(whole).save(given.new / "copy.png")
    (given.new / "broken.jpg").write_bytes(whole.read_bytes()[:1000])
    for folder in (given.photos, given.new):
        print(f"{folder}: {sum(path.is_file() for path in folder.rglob('*'))} files")


if __name__ == "__main__":
    main()
