"""A run with other settings, as a DVC experiment in a folder of its own.

The folder is a clone that shares git's objects and DVC's cache. It starts from the last commit with
the uncommitted changes of tracked files on top, gets its settings as ``dvc exp run -S`` sets them,
and ends in a commit that ``dvc exp show`` lists. The folder of the user stays as it is. Points of a
sweep can run at the same time, for which neither ``dvc exp run`` nor ``dvc exp save`` in one folder
can be used.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.engine import measured
from pipelines.graph import dag
from pipelines.graph.healing import (
    clear_experiments,
    experiment_folder,
    keeping_checkpoints,
)
from pipelines.graph.private import private
from pipelines.graph.snapshot import (
    check_committer,
    check_name,
    check_snapshot,
    clone_at,
    git,
    take_snapshot,
)
from prosmin.common.errors import UserError, nearest, printable, shown
from prosmin.common.files import write_json
from stages.common import current
from stages.common.headlines import summary
from stages.common.layout import SUMMARY
from stages.params.load import PARAMS, load
from stages.params.yaml_file import INTERPOLATION, read

SECONDS = "seconds: "  # how the line of the stages begins in the message of an experiment
LONGEST = 4000  # characters of a change; DVC's grammar takes many seconds to read more


@dataclass(frozen=True)
class Experiment:
    """A running experiment.

    folder: where it runs. origin: the folder that it was started in.
    checkpoints: where it keeps those of its pretraining; None: in its folder.
    """

    folder: Path
    origin: Path
    name: str | None
    checkpoints: Path | None = None

    def save(self, stage: str, seconds: Mapping[str, float]) -> str:
        """Commit the results for ``dvc exp show`` in the folder of origin; returns the name.

        stage: one that is up to date. DVC notes the results that it has of all stages, or of those
            that are named, as of the settings of the experiment. Every stage of the run has been
            noted already, and results of other stages are of other settings or missing. After a
            run of some stages, the summary has the numbers of these alone.
        seconds: of the stages that ran, by name. They stand in the message of the commit, from
            which ``seconds_of`` reads them.
        """
        times = {stage: round(value, 2) for stage, value in seconds.items()}
        message = f"experiment {self.name or ''}\n\n{SECONDS}{json.dumps(times)}"
        fit_summary()
        untracked = git(self.folder, "ls-files", "--others", "--exclude-standard").splitlines()
        with dag.opened() as repo:
            saved = repo.experiments.save(
                targets=[stage],
                name=self.name,
                include_untracked=untracked,
                force=False,
                message=message,
            )
            name = self.name or repo.experiments.get_exact_name([saved])[saved]
        # Git creates the reference completely or not at all, and beside another fetch.
        words = ("fetch", "--quiet", "--no-tags", str(self.folder), "refs/exps/*:refs/exps/*")
        git(self.origin, *words, fails="cannot be kept")
        if self.checkpoints:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        return name


def fit_summary() -> None:
    """Leave numbers of other settings out of the summary, which a run of some stages has not made.

    DVC's tables would show the numbers of the commit that the experiment started from.
    """
    if str(SUMMARY) in (stale := current.stale()):
        write_json(SUMMARY, summary(load(), without=stale))


def seconds_of(reference: str) -> dict[str, float]:
    """Seconds of the stages that ran in an experiment, by name; not of those that DVC restored.

    reference: of git.
    """
    for line in git(Path(), "log", "-1", "--format=%B", reference).splitlines():
        if line.startswith(SECONDS):
            return json.loads(line.removeprefix(SECONDS))
    return {}


@contextlib.contextmanager
def experiment(
    changes: Sequence[str], name: str | None = None, snapshot: str | None = None
) -> Iterator[Experiment]:
    """Work in the folder of a new experiment while the block runs; then the folder is removed.

    Args:
        changes: Settings, as ``key=value``.
        name: Of the experiment; None: a name that DVC makes up.
        snapshot: A result of ``take_snapshot``; None: the folder as it is now.

    Raises:
        UserError: for an unknown key, a value that is not allowed, and a name that is taken or is
            no name.
    """
    origin = Path.cwd()
    check(changes, name)
    if snapshot:
        check_snapshot(snapshot)
    kept = keeping_checkpoints(name) if name else contextlib.nullcontext()
    with kept as checkpoints, clone_of(snapshot or take_snapshot(), name or "run") as folder:
        if changes:
            apply(changes)
        load()
        yield Experiment(folder, origin, name, checkpoints)


@contextlib.contextmanager
def clone_of(snapshot: str, name: str, results: bool = True) -> Iterator[Path]:
    """Work in a new clone of the current folder, called after ``name``, while the block runs.

    snapshot: of ``take_snapshot``. results: whether the clone has those of ``dvc.lock``.
    """
    origin, before = Path.cwd(), {measure: measure.load() for measure in measured.ALL}
    for line in clear_experiments():
        print(line, file=sys.stderr, flush=True)
    with experiment_folder(name) as folder:
        try:
            clone_at(origin, folder, snapshot, results)
            os.chdir(folder)
            private()
            for measure, numbers in before.items():
                measure.save(numbers)
            yield folder
        finally:
            os.chdir(origin)


def check(changes: Sequence[str], name: str | None = None) -> None:
    """Check the changes and the name of an experiment before anything runs.

    Raises:
        UserError: as ``experiment`` does.
    """
    if changes or name is not None:
        check_committer()
    if name is not None:
        check_name(name)
        with dag.opened() as repo:
            from dvc.repo.experiments.utils import exp_refs_by_names

            if exp_refs_by_names(repo.scm, {name})[name]:
                raise UserError(
                    f"there is an experiment {name} already; "
                    f"choose another name, or `dvc exp remove {name}`"
                )
    content = read(PARAMS) if PARAMS.is_file() else None
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or not key:
            raise UserError(f"{shown(change)} is not key=value, such as pretrain.epochs=5")
        section, known = content, ""
        for step in key.split("."):
            if not isinstance(section, dict) or step not in section:
                options = (
                    [f"{known}{option}" for option in section] if isinstance(section, dict) else []
                )
                raise UserError(
                    f"{printable(key)} is not in {PARAMS}{nearest(f'{known}{step}', options)}"
                )
            section, known = section[step], f"{known}{step}."
        _one_value(change)


def _one_value(change: str) -> None:
    """Refuse a sweep, and a reference to something else, such as an environment variable."""
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    key, _, value = change.partition("=")
    if INTERPOLATION in change:
        raise UserError(
            f"{key} is {shown(value)}; "
            f"a value is taken as it stands, so it must not hold {INTERPOLATION!r}"
        )
    try:
        if len(change) > LONGEST:
            raise ValueError
        (parsed,) = to_hydra_overrides([change])
    except HydraException as error:
        said = (str(error).splitlines() or [""])[0]
        raise UserError(f"{key} is {shown(value)}, which cannot be read: {said[:100]}") from None
    except (ValueError, RecursionError):  # ValueError: a number of thousands of digits
        why = "is too long or too deep to be read"
        raise UserError(f"{key} is {shown(value)}, which {why}") from None
    if parsed.is_sweep_override() or parsed.type != OverrideType.CHANGE:
        raise UserError(
            f"{key} is {shown(value)}; it must be one value (a list is [1, 2], "
            "text with brackets stands in quotes); several runs are a sweep: make sweep"
        )


def apply(changes: Sequence[str]) -> None:
    """Set keys of params.yaml as DVC does, which keeps the comments. Call ``check`` before.

    A section, such as ``pretrain.objective={name: byol}``, replaces the old section; DVC alone
    would merge the two.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    read(PARAMS)  # in which DVC would resolve references too
    overrides = [override for change in changes for override in _replacing(change)]
    try:
        apply_overrides(str(PARAMS), overrides)
    except DvcException as error:
        raise UserError(dag.sentence(error)) from None


def _replacing(change: str) -> list[str]:
    key, _, value = change.partition("=")
    return [f"~{key}", f"+{change}"] if value.lstrip().startswith("{") else [change]
