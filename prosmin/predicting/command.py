"""The program ``prosmin``: predict or embed a folder of images with an exported model."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prosmin.common.errors import ConfigError, UserError, cause, listed, say
from prosmin.common.startup import escape_output
from prosmin.fetching.listing import escape_unprintable

if TYPE_CHECKING:
    from prosmin.predicting import tables
    from prosmin.predicting.images import Batch

EPILOG = """\
The table has a row per image file, in the order of their paths. Files that cannot be read have the
reason in the last column.

  prosmin predict photos --model results/export --out predictions.parquet --report page.html
  prosmin embed photos --model results/export --out features.csv
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 when done, 2 for bad input, 130 when interrupted."""
    escape_output()
    asked = _parser().parse_args(arguments)
    asked.written = False
    try:
        asked.run(asked)
    except UserError as error:
        say(error)
        sys.exit(2)
    except OSError as error:
        say(f"prosmin cannot go on: {cause(error)}; {_left(asked)}")
        sys.exit(2)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        say(f"the device has too little memory for --batch {asked.batch}; {_left(asked)}")
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"prosmin: interrupted; {_left(asked)}", file=sys.stderr)
        sys.exit(130)


def _left(asked: argparse.Namespace) -> str:
    out = escape_unprintable(str(asked.out))
    return f"{out} is written" if asked.written else "no table was written"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "prosmin",
        description="Use an exported model on images of your own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="class, calibrated probabilities, conformal set, uncertainty, OOD score, neighbours",
    )
    embed = commands.add_parser("embed", help="features and label-free scores")
    for command, run in ((predict, _predict), (embed, _embed)):
        command.set_defaults(run=run)
        command.add_argument("folder", metavar="FOLDER", help="images, also in folders below it")
        command.add_argument(
            "--model", default="results/export", help="folder of the model (%(default)s)"
        )
        command.add_argument("--out", required=True, type=Path, help=".parquet or .csv")
        command.add_argument("--device", help="of PyTorch, such as cpu or cuda:1 (a GPU if any)")
        command.add_argument("--workers", type=_positive, help="threads that decode (all cores)")
        command.add_argument(
            "--batch", type=_positive, default=256, help="images at a time (%(default)s)"
        )
    predict.add_argument("--report", type=Path, help="one HTML page about the images")
    predict.add_argument(
        "--neighbours", type=_positive, default=5, help="training images to name (%(default)s)"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


# --- commands -------------------------------------------------------------------------------------
# Imported inside: ``prosmin --help`` and a slip in the arguments need no torch.


def _predict(asked: argparse.Namespace) -> None:
    from prosmin.predicting import tables
    from prosmin.predicting.page import Gathered

    session = _Session(asked)
    model, gathered = session.model, Gathered(session.folder) if asked.report else None
    like = tables.of_predictions(model.predict_prepared(session.blank, asked.neighbours))
    unusual = 0
    with session.table(like) as table:
        for batch in session.batches():
            columns: tables.Columns = {}
            if batch.images is not None:
                predictions = model.predict_prepared(batch.images, asked.neighbours)
                unusual += int(predictions.unusual.sum())
                columns = tables.of_predictions(predictions)
                if gathered is not None:
                    gathered.add(batch, predictions)
            table.write(batch.names, columns, batch.faults)
    if gathered is not None:
        gathered.write(asked.report, model.facts, session.faults)
    session.finish(f"; {unusual} are unusual")


def _embed(asked: argparse.Namespace) -> None:
    from prosmin.predicting import tables

    session = _Session(asked)
    like = tables.of_embedding(session.model.embed_prepared(session.blank))
    with session.table(like) as table:
        for batch in session.batches():
            columns: tables.Columns = {}
            if batch.images is not None:
                columns = tables.of_embedding(session.model.embed_prepared(batch.images))
            table.write(batch.names, columns, batch.faults)
    session.finish("")


class _Session:
    """A model, the files to read, and the faults so far. Checks all arguments first.

    blank: a black image, as the networks take images.
    """

    def __init__(self, asked: argparse.Namespace):
        import torch

        from prosmin.common.startup import keep_freed_memory
        from prosmin.predicting import images, model, tables

        keep_freed_memory()
        self.asked = asked
        tables.check_format(asked.out)
        report = getattr(asked, "report", None)  # which embed has not
        _check_place("--out", asked.out)
        if report is not None:
            _check_place("--report", report)
            if report.resolve() == asked.out.resolve():
                raise ConfigError("--report", str(report), "it must be another file than --out")
        self.folder, self.names = images.find(asked.folder)
        if asked.device is not None:
            _check_device(asked.device)
        self.model = model.load(asked.model, asked.device)
        settings = self.model.facts.model
        size = settings.image_size
        self.blank = torch.zeros(1, settings.channels, size, size, dtype=torch.uint8)
        self.faults: dict[str, str] = {}

    def batches(self) -> "Iterator[Batch]":
        """Yield the files in batches, with a progress bar."""
        from tqdm import tqdm

        from prosmin.predicting import images

        asked, read = self.asked, self.model.prepare_file
        # disable=None: no bar where the output is no terminal.
        with tqdm(total=len(self.names), unit="image", disable=None) as bar:
            for batch in images.batches(self.folder, self.names, read, asked.batch, asked.workers):
                yield batch
                self.faults |= {batch.names[place]: why for place, why in batch.faults.items()}
                bar.update(len(batch.names))

    @contextlib.contextmanager
    def table(self, like: "tables.Columns") -> "Iterator[tables.Table]":
        """A table with the columns ``like``, which is written when the block ends."""
        from prosmin.predicting import tables

        with tables.Table(self.asked.out, like) as table:
            yield table
        self.asked.written = True

    def finish(self, more: str) -> None:
        """Say what was written, and which files could not be read."""
        count = len(self.names) - len(self.faults)
        out = escape_unprintable(str(self.asked.out))
        print(f"{out}: {count} of {len(self.names)} images{more}")
        if self.faults:
            print(f"not read, for reasons in the table: {listed(list(self.faults), 5)}")


def _check_place(option: str, path: Path) -> None:
    """Raise ``ConfigError`` where no file can be written, hours before there is one to write."""
    if path.is_dir():
        raise ConfigError(option, str(path), "it is a folder; a file is needed")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(option, str(path), f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(option, str(path), f"no file can be written in {above}")


def _check_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name).item()  # the device named meta has no values
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("--device", name, str(error).splitlines()[0]) from None


if __name__ == "__main__":
    main()
