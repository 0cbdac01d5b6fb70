"""report: every number, curve and example of the run on one page that opens offline.

Reads   metrics/, plots/, results/pretrain/{model.json,views.safetensors},
        results/ood/<set>/{scores,examples}.safetensors, params.yaml
Writes  results/report/index.html: text, drawings and images in one file without external references
        summary.json: the headline numbers, for the tables of DVC (``stages.common.headlines``)

For missing inputs the page names the commands that make them. The same inputs give the same bytes.
"""

import logging
from pathlib import Path

from prosmin.common import files
from stages.common.command import run
from stages.common.headlines import summary
from stages.common.layout import REPORT, SUMMARY
from stages.params.load import Params
from stages.report.inputs import Inputs
from stages.report.page import page

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    html = page(Inputs(Path(), params))
    with files.whole_folder(REPORT.parent) as folder:
        files.write_text(folder / REPORT.name, html)
    files.write_json(SUMMARY, summary(params))
    log.info("%s, %.0f kB", REPORT, len(html.encode()) / 1000)


if __name__ == "__main__":
    run("report", main)
