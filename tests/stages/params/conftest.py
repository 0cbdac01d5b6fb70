import sys

import pytest

from stages.common.command import run


@pytest.fixture
def complaints(tmp_path, monkeypatch, capsys):
    """A function that starts a stage on a params.yaml and returns the lines that the user sees."""

    def start(content: str | bytes) -> list[str]:
        (tmp_path / "params.yaml").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["linear"])
        with pytest.raises(SystemExit) as end:
            run("linear", lambda params: pytest.fail("the stage was started"))
        assert end.value.code == 2
        assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        return [line.removeprefix("error: ") for line in err.splitlines()]

    return start
