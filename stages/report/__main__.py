"""report: every number, curve and example of the run on one page that opens offline.

Reads   metrics/, plots/, results/pretrain/views.safetensors, results/ood/<set>/{scores,examples}.safetensors,
        params.yaml
Writes  results/report/index.html: text, drawings and images in one file that refers to nothing outside it

What is missing is named on the page with the command that makes it. The same inputs give the same bytes.
"""

import logging
from pathlib import Path

from prosmin.common import files
from stages.common.command import run
from stages.params.load import Params
from stages.report.inputs import Inputs
from stages.report.page import page

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    html = page(Inputs(Path(), params))
    with files.whole_folder("results/report") as folder:
        files.write_text(folder / "index.html", html)
    log.info("results/report/index.html, %.0f kB", len(html.encode()) / 1000)


if __name__ == "__main__":
    run("report", main)
