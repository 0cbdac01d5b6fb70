"""Names of params.yaml in the commands of dvc.yaml, under plain DVC, which checks none of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.common import declared
from stages.common.command import _told

ROOT = Path(__file__).parents[3]
NAMES = [
    "x; touch pwned",
    "x' ; touch pwned '",
    'x" ; touch pwned "',
    "`touch pwned`",
    "$(touch pwned)",
    "x\ntouch pwned\n",
    "x && touch pwned #",
    "'$(touch pwned)'",
    "a|touch pwned",
    "-h",
    "$HOME",
    "*",
]
SHOW = """
import json, sys
from pathlib import Path
Path("told").mkdir(exist_ok=True)
Path("told", str(len(list(Path("told").iterdir())))).write_text(json.dumps(sys.argv[1:]))
"""


def commands():
    """The command of each stage that is one of several, as dvc.yaml has it."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: body["do"]["cmd"] for name, body in stages.items() if "foreach" in body}


def test_no_command_holds_what_params_say():
    assert not [
        name
        for name, stage in declared.definitions(ROOT / "dvc.yaml").items()
        if "${" in str(stage.get("cmd"))
    ]
    assert len(commands()) == 9 and not [
        name for name, command in commands().items() if "${" in command
    ]


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_no_shell_reads_a_name(tmp_path):
    shutil.copytree(
        ROOT / ".dvc",
        tmp_path / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    command = commands()["fetch"].replace("python -m stages.fetch", f"{sys.executable} show.py")
    graph = {
        "stages": {"fetch": {"foreach": "${fetch}", "do": {"cmd": command, "always_changed": True}}}
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(graph))
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"fetch": {name: {"a": 1} for name in NAMES}})
    )
    (tmp_path / "show.py").write_text(SHOW)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-k"], cwd=tmp_path, capture_output=True, text=True
    )
    told = [json.loads(path.read_text()) for path in (tmp_path / "told").iterdir()]
    assert sorted(_told("fetch", *arguments) for arguments in told) == sorted(NAMES), (
        done.stdout + done.stderr
    )
    assert not (tmp_path / "pwned").exists()


def test_a_stage_is_named_by_hand_or_by_dvc():
    for argument in ("digits", "fetch@digits", "dvc.yaml:fetch@digits", "../dvc.yaml:fetch@digits"):
        assert _told("fetch", argument) == "digits"
    assert _told("ood", "fetch@digits") == "fetch@digits"
