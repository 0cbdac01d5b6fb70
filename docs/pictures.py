"""Take the picture of the report that the README shows: ``python docs/pictures.py`` after ``dvc repro``.

It needs Chromium or Chrome. The top of results/report/index.html, 1280 x 1600 pixels, becomes docs/report.png in 256
colours, which keeps it below 300 kB.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
REPORT, PICTURE = ROOT / "results/report/index.html", ROOT / "docs/report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: no Chromium or Chrome on the path")
    if not REPORT.is_file():
        sys.exit(f"error: {REPORT.relative_to(ROOT)} does not exist; run `dvc repro`")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        flags += [
            f"--user-data-dir={folder}/profile",
            "--window-size=1280,1600",
            f"--screenshot={shot}",
        ]
        subprocess.run(
            [browser, *flags, REPORT.as_uri()], check=True, stderr=subprocess.DEVNULL, timeout=120
        )
        Image.open(shot).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            PICTURE, optimize=True
        )
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
