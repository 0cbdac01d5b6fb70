"""Take the picture of the report in the README: ``python docs/pictures.py``, after ``dvc repro``.

Needs Chromium or Chrome. The picture is the top of results/report/index.html, 1280 x 1600 pixels in
256 colours, which keeps the file below 300 kB.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
REPORT, PICTURE = ROOT / "results/report/index.html", ROOT / "docs/pictures/report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1280,1600",
)


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: no Chromium or Chrome on the path")
    if not REPORT.is_file():
        sys.exit(f"error: {REPORT.relative_to(ROOT)} does not exist; run `dvc repro`")
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder) / "screenshot.png"
        own = (f"--user-data-dir={folder}/profile", f"--screenshot={screenshot}")
        command = [browser, *FLAGS, *own, REPORT.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        picture = Image.open(screenshot).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
