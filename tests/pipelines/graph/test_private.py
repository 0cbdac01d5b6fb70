"""The folder of notes and of Prefect's database is closed to other users of the machine."""

import re
from pathlib import Path

import pytest

from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError


@pytest.mark.parametrize("inside", [FOLDER, FOLDER / "a/b"])
def test_no_other_user_can_look_into_it(tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(mode=0o755)  # as an older version has left it
    assert private(inside) == inside
    for folder in {FOLDER, inside}:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_in_its_place_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(FOLDER).write_text("")
    with pytest.raises(UserError, match=rf"^{re.escape(str(FOLDER))} is a file; it must be a"):
        private()
