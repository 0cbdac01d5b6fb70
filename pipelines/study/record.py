"""The runs of a study in one file: all numbers of its page.

Experiments stand on one commit of one repository. This file takes their numbers to another: a study
that takes days goes on while the code changes elsewhere, and machines can share its runs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.study.choice import Due
from pipelines.study.judging.claims import DISTANCE, Files, number_at, quantities
from pipelines.study.plan import Plan, Run, replaced
from pipelines.study.results import Known, Result
from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.common.errors import UserError
from prosmin.common.files import read_json
from stages.params.yaml_file import refusal

NAME = "runs.json"


class Recorded(BaseModel):
    """One run. commit: of the code that ran. The rest: as in ``Run`` and ``Result``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    method: str
    place: str
    tries: bool
    commit: str
    stages: tuple[str, ...]
    changes: dict[str, Any]
    seconds: dict[str, float]
    files: dict[str, dict[str, Any]]

    @property
    def run(self) -> Run:
        """Its settings, as a study plans them."""
        return Run(
            self.study, self.method, self.place, self.tries, self.changes, self.stages, self.commit
        )


class Record(BaseModel):
    """The content of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[Recorded]


def content(plan: Plan, due: Due, known: Known) -> dict[str, Any]:
    """The runs that have ended, as JSON: those of the choice, then those that are compared."""
    ended = [(run, result) for run in due.all_runs if (result := known.result(run))]
    present, _ = quantities(
        plan.study.judged, [result.files for run, result in ended if not run.tries]
    )
    asked = {pair for quantity in present for pair in (*quantity.keys, *quantity.own)}
    choose = plan.study.choose
    tried = {(path, key) for path, _, key in [choose.by.partition(":")]} if choose else set()
    return {
        "runs": [
            Recorded(
                study=run.study,
                method=run.method,
                place=run.place,
                tries=run.tries,
                commit=result.commit or run.commit,
                stages=run.stages,
                changes=dict(run.changes),
                seconds=dict(result.seconds),
                files=_numbers(result.files, tried if run.tries else asked),
            ).model_dump(mode="json")
            for run, result in ended
        ]
    }


def _numbers(files: Files, asked: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """The metrics that are asked for, of both encoders, by (path, dotted key)."""
    numbers: dict[str, dict[str, Any]] = {}
    for path, key in sorted(asked):
        first, *steps = key.split(".")
        for encoder in (TRAINED, UNTRAINED) if first == TRAINED else (first,):
            number = number_at(files.get(path), key, encoder)
            if number is not None:
                numbers[path] = replaced(numbers.get(path), (encoder, *steps), number)
                if DISTANCE in files[path]:
                    numbers[path][DISTANCE] = files[path][DISTANCE]
    return numbers


def read(paths: Iterable[Path]) -> dict[str, Result]:
    """The runs of all files, by ``Run.key``; of two with the same key the first counts.

    Raises:
        UserError: where a file is missing or holds something else.
    """
    runs: dict[str, Result] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"--recorded {path}: there is no such file")
        try:
            record = Record.model_validate(read_json(path))
        except ValidationError as error:
            raise refusal(path, error, Record) from None
        for entry in record.runs:
            result = Result(entry.files, entry.seconds, entry.commit)
            runs.setdefault(entry.run.key, result)
    return runs
