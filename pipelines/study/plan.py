"""The runs of a study: their settings, their names, and their check before anything runs."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.flows.grid import Value, written
from pipelines.graph import dag
from pipelines.graph.experiment import check
from pipelines.graph.snapshot import git
from pipelines.study.file import UNSEEN, Settings, Study, load_study
from prosmin.common.encoders import CONTINUED, SHOWN
from prosmin.common.errors import UserError, listed, shown
from stages.common.declared import PARAMS
from stages.params.load import load
from stages.params.yaml_file import read


@dataclass(frozen=True)
class Run:
    """One experiment.

    place: ``point-3`` of the choice, or ``seed-0``. tries: whether it is of the choice.
    """

    study: str
    method: str
    place: str
    tries: bool
    changes: Mapping[str, Value]
    stages: tuple[str, ...]
    commit: str

    @property
    def name(self) -> str:
        """Of the experiment; other settings and another commit give another name."""
        digest = _digest(self.commit, self.changes, self.stages)[:6]
        return f"{self.study}-{self.method}-{self.place}-{digest}"

    @property
    def key(self) -> str:
        """The same for runs with the same settings and stages, of any commit and machine."""
        return _digest(self.changes, self.stages)


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """A study. overrides: the changes of the command line. commit: that its runs start from."""

    name: str
    study: Study
    overrides: Mapping[str, Value]
    commit: str = ""

    def choice_run(self, method: str, place: int, settings: Settings) -> Run:
        """The run that measures one point of a grid on val."""
        choose = self.study.choose
        assert choose
        unseen = {} if self.study.methods[method].external else UNSEEN
        changes = self._changes(method, settings, choose.set, unseen, {"seed": choose.seed})
        stages = (choose.stage,)
        return Run(self.name, method, f"point-{place}", True, changes, stages, self.commit)

    def final_run(self, method: str, settings: Settings, seed: int) -> Run:
        """A run that is compared."""
        changes = self._changes(method, settings, {"seed": seed})
        stages = tuple(self.study.stages)
        return Run(self.name, method, f"seed-{seed}", False, changes, stages, self.commit)

    def shown(self, method: str) -> Mapping[str, str]:
        """The names on pages of the two encoders of a method's runs."""
        key = "pretrain.initial"
        given = [
            value
            for name, value in self._changes(method).items()
            if f"{name}.".startswith(f"{key}.")
        ]
        return CONTINUED if any(given) else SHOWN

    def _changes(self, method: str, *layers: Mapping[str, Value]) -> Settings:
        own = self.study.methods[method].set
        return merged(self.study.base, own, self.overrides, *layers)


def merged(*layers: Mapping[str, Value]) -> Settings:
    """Changes by dotted key, of which no key lies below another; later layers win.

    A key below a section that an earlier layer sets changes that section.
    """
    changes: Settings = {}
    for key, value in (item for layer in layers for item in layer.items()):
        above = next((name for name in changes if key.startswith(f"{name}.")), None)
        if above is not None and isinstance(changes[above], dict):
            changes[above] = replaced(changes[above], key[len(above) + 1 :].split("."), value)
            continue
        inside = [name for name in changes if name.startswith(f"{key}.")]
        for name in inside:
            del changes[name]
        changes[key] = value
    return changes


def replaced(section: Any, steps: Sequence[str], value: Value) -> dict[str, Value]:
    """A copy of a section with another value at the end of ``steps``."""
    step, *rest = steps
    section = section if isinstance(section, dict) else {}
    return {**section, step: replaced(section.get(step), rest, value) if rest else value}


# --- the command line, and the check of the settings ----------------------------------------------


def parsed(changes: Sequence[str]) -> Settings:
    """The changes of the command line, ``key=value`` with a value as in YAML."""
    settings: Settings = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise UserError(f"{shown(change)} is not key=value, such as pretrain.epochs=5")
        try:
            settings[key] = yaml.safe_load(value)
        except Exception:  # YAML's constructors raise many kinds for a value that does not fit
            raise UserError(f"{key} is {shown(value)}, which is not YAML") from None
    return settings


def located(study: Study, given: Sequence[str]) -> dict[str, str]:
    """The folders of the command line, ``name=path``, as absolute paths.

    Raises:
        UserError: where one of ``study.folders`` is not given or does not exist.
    """
    folders = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not equals or name not in study.folders:
            known = listed(study.folders) or "none"
            raise UserError(f"--folder {shown(entry)} must be NAME=PATH, NAME one of: {known}")
        if not Path(path).is_dir():
            raise UserError(f"--folder {name} is {path!r}, which is no folder")
        folders[name] = str(Path(path).resolve())
    if missing := [name for name in study.folders if name not in folders]:
        raise UserError(f"give the folder {missing[0]!r}, such as --folder {missing[0]}=/a/path")
    return folders


def in_place(value: Value, folders: Mapping[str, str]) -> Value:
    """A value with the paths of folders in the place of their names, ``<name>``."""
    if isinstance(value, Mapping):
        return {key: in_place(inner, folders) for key, inner in value.items()}
    if isinstance(value, list):
        return [in_place(inner, folders) for inner in value]
    if isinstance(value, str):
        for name, path in folders.items():
            value = value.replace(f"<{name}>", path)
    return value


def quoted(value: Value) -> Value:
    """A value with quotes around text that DVC's grammar would not read as it stands."""
    if isinstance(value, Mapping):
        return {key: quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [quoted(inner) for inner in value]
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9_./:+-]+", value):
        escaped = value.replace("'", r"\'")
        return f"'{escaped}'"
    return value


def check_run(run: Run, folders: Mapping[str, str]) -> None:
    """Check the settings of a run before anything runs.

    Raises:
        UserError: for an unknown key, and for values that ``params.yaml`` does not allow.
    """
    changes = in_place(run.changes, folders)
    check([f"{key}={written(quoted(value))}" for key, value in changes.items()])
    content = read(PARAMS)
    for key, value in changes.items():
        content = replaced(content, key.split("."), value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        try:
            load(path)
        except UserError as error:
            lines = str(error).replace(f"{folder}/", "").splitlines()
            raise UserError("\n".join(f"{run.method}: {line}" for line in lines)) from None


def plan_of(
    path: Path, name: str, changes: Sequence[str], given: Sequence[str]
) -> tuple[Plan, dict[str, str]]:
    """The plan of a study and its folders, with every run known so far checked.

    changes, given: ``--set`` and ``--folder`` of the command line.

    Raises:
        UserError: where the file, a setting or a folder is wrong.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(
            f"{shown(name)} cannot be the name of a study; give --name, of letters, digits, "
            "'-', '_' and '.'"
        )
    study = load_study(path)
    folders = located(study, given)
    commit = git(Path(), "rev-parse", "HEAD", fails="has no commit yet; a study starts from one")
    plan = Plan(name, study, parsed(changes), commit.strip())
    dag.read(study.stages)
    for method in study.methods:
        for place, settings in enumerate(study.methods[method].points):
            runs = [plan.choice_run(method, place, settings)] if study.choose else []
            for run in [*runs, plan.final_run(method, settings, study.seeds[0])]:
                check_run(run, folders)
    return plan, folders
