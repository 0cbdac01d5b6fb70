"""Take the pictures of pages in the README and docs/: ``python docs/pictures.py [NAME]``.

Needs Chromium or Chrome, and the pages: results/report/index.html by ``dvc repro``, page.html by
the commands of docs/tutorial.md. A picture has 256 colours, which keeps the file small.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
REPORT, PAGE = "results/report/index.html", "page.html"
# By name of the picture: the page, the pixels to leave out at its top, and width and height.
PICTURES = {
    "report": (REPORT, 0, 1280, 1600),
    "tutorial_page": (PAGE, 1588, 1280, 690),
    "tutorial_phone": (PAGE, 0, 390, 844),
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")


def take(name: str, browser: str) -> None:
    """Take one picture of its page, and say how large it is."""
    page, top, width, height = PICTURES[name]
    if not (ROOT / page).is_file():
        sys.exit(f"error: {page} does not exist; the head of docs/pictures.py says what makes it")
    picture = ROOT / "docs/pictures" / f"{name}.png"
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder) / "screenshot.png"
        own = (f"--user-data-dir={folder}/profile", f"--screenshot={screenshot}")
        window = f"--window-size={width},{top + height}"
        command = [browser, *FLAGS, window, *own, (ROOT / page).as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=600)
        pixels = Image.open(screenshot).convert("RGB").crop((0, top, width, top + height))
        pixels.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=PICTURES, help="one picture (default: all)")
    given = parser.parse_args().name
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: no Chromium or Chrome on the path")
    for name in [given] if given else PICTURES:
        take(name, browser)


if __name__ == "__main__":
    main()
