"""The recipes of ``docs/extending.md``, and a small copy of the project to apply them to."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/extending.md"

# Replacements in params.yaml that make a run take seconds; comments and layout stay, for the diffs.
SMALL = [
    (r"(\n    name: digits)", r"\1\n    limit: {train: 50, val: 20, test: 50}"),
    (r"channels: \[16, 32, 64, 128\]", "channels: [8, 8, 8, 8]"),
    (r"\n  epochs: 80\b", "\n  epochs: 1"),
    (r"\n  batch_size: 256\b", "\n  batch_size: 25"),
    (r"\n  warmup_epochs: 5", "\n  warmup_epochs: 0"),
    (r"\n  views: 4\b", "\n  views: 2"),
    (r"\n  corruptions: \[.*?\]", "\n  corruptions: []"),
    (r"bootstrap: 1000", "bootstrap: 100"),
]

# Runs stages in one process, which loads PyTorch once. DVC then records their results.
STAGES = [
    "fetch digits",
    "fetch digits_rotated",
    "pretrain",
    "embed digits",
    "embed digits_rotated",
]
STAGES += ["prediction digits", "prediction digits_rotated", "linear"]
RUN = """
import importlib, sys
from stages.params.load import load
params = load()
for stage in sys.argv[1:]:
    name, *arguments = stage.split()
    importlib.import_module(f"stages.{name}").main(params, *arguments)
"""


REPRO = "dvc repro "
CODE = ("prosmin", "stages", "pipelines", "tests", "docs", "params.yaml", "dvc.yaml", "README.md")


@dataclass(frozen=True)
class Recipe:
    """What one section of the page asks for.

    files: the content of each new file, by path.
    diffs: the changes of files that exist.
    commands: the lines to type then.
    """

    files: dict[str, str]
    diffs: list[str]
    commands: list[str]

    @property
    def before(self) -> list[str]:
        """The commands before its stages run."""
        return self.commands[: self._repro]

    @property
    def stages(self) -> list[str]:
        """The stages that its ``dvc repro`` runs."""
        return self.commands[self._repro].removeprefix(REPRO).split()

    @property
    def after(self) -> list[str]:
        """The commands after its stages have run."""
        return self.commands[self._repro + 1 :]

    @property
    def _repro(self) -> int:
        (place,) = (n for n, line in enumerate(self.commands) if line.startswith(REPRO))
        return place

    @property
    def changed(self) -> list[str]:
        """The paths of all files, new or changed."""
        return [*self.files, *re.findall(r"^\+\+\+ b/(\S+)$", "\n".join(self.diffs), flags=re.M)]


def recipe(title: str) -> Recipe:
    """The recipe of the section with this title. Raises ``KeyError`` where the page has none."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.M)
    text = dict(zip(parts[1::2], parts[2::2]))[title]
    files = dict(re.findall(r"^`(\S+)`, new:\n\n```\w+\n(.*?)^```$", text, flags=re.M | re.S))
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, flags=re.M | re.S)
    shell = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S)
    commands = [line.split("  #")[0].strip() for block in shell for line in block.splitlines()]
    return Recipe(files, diffs, commands)


class Project:
    """A git repository with the files of this one; its params are small in the working tree."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> "Project":
        """Copy the working tree of this checkout, commit it and make its params small."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        record = ("metrics/", "plots/", "summary.json", "dvc.lock")
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(record):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        project = cls(folder)
        project.run("git init -q -b main")
        project.run("git add -A")
        identity = "-c user.name=test -c user.email=test@example.org"
        project.run(f"git {identity} commit -q -m project")
        project.make_small()
        return project

    @property
    def whole_params(self) -> Path:
        """The params before they were made small."""
        return self.folder / ".git/params.yaml"

    def make_small(self) -> None:
        shutil.copy(self.folder / "params.yaml", self.whole_params)
        params = (self.folder / "params.yaml").read_text()
        for pattern, replacement in SMALL:
            params, count = re.subn(pattern, replacement, params)
            assert count, f"params.yaml has no {pattern!r}"
        (self.folder / "params.yaml").write_text(params)

    def run(self, command: str, *arguments: str) -> str:
        """The output of a command. Fails with it where the exit code is not 0."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*command.split(), *arguments],
            cwd=self.folder,
            env=os.environ | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def run_stages(self) -> None:
        """Run ``STAGES`` and record them in dvc.lock."""
        self.run("python -c", RUN, *STAGES)
        self.run("dvc commit --force --quiet", *(stage.replace(" ", "@") for stage in STAGES))

    def apply(self, change: Recipe) -> None:
        """Write the new files of a recipe and apply its diffs, after those of earlier recipes."""
        shutil.copy(self.whole_params, self.folder / "params.yaml")
        for name, content in change.files.items():
            assert not (self.folder / name).exists(), f"{name} exists already"
            (self.folder / name).write_text(content)
        for diff in change.diffs:
            (self.folder / ".git/change.diff").write_text(diff)
            self.run("git apply --recount .git/change.diff")
        self.make_small()

    def remove(self) -> None:
        """Apply the changes backwards, with all that their commands wrote into tracked files."""
        shutil.copy(self.whole_params, self.folder / "params.yaml")
        self.run("git add -A --", *CODE)
        (self.folder / ".git/change.diff").write_text(self.run("git diff --cached HEAD"))
        self.run("git apply -R --index .git/change.diff")
        assert self.run("git status --porcelain --", *CODE) == ""
