import errno
import sys
from pathlib import Path

import pytest

from prosmin.errors import ConfigError, UserError
from stages.command import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outcome(monkeypatch, capsys):
    """A function that runs ``main`` as a stage and returns its exit code and what it said."""

    def start(main, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        with pytest.raises(SystemExit) as end:
            run("linear", main)
        return end.value.code, capsys.readouterr().err

    return start


def raising(error):
    def main(params):
        raise error

    return main


def test_a_setting_found_wrong_late_is_named_by_its_whole_key(outcome):
    code, said = outcome(raising(ConfigError("l2", 0, "it must be above 0")))
    assert (code, said) == (2, "error: params.yaml: linear.l2 is 0; it must be above 0\n")


def test_bad_input_is_a_line_for_each_fault(outcome):
    assert outcome(raising(UserError("one\ntwo"))) == (2, "error: one\nerror: two\n")


def test_an_argument_too_many_or_too_few_says_how_to_start_the_stage(outcome):
    code, said = outcome(lambda params: None, "digits")
    assert (code, said) == (2, "error: linear was given digits; start it as: python -m stages.linear\n")
    code, said = outcome(lambda params, name: None)
    assert (code, said) == (2, "error: linear was given no argument; start it as: python -m stages.linear NAME\n")


def test_an_interruption_is_told_by_its_exit_code(outcome):
    code, said = outcome(raising(KeyboardInterrupt()))
    assert code == 130 and "interrupted" in said


def test_a_full_disk_is_one_line_and_another_fault_of_a_file_is_a_defect(outcome):
    code, said = outcome(raising(OSError(errno.ENOSPC, "No space left on device")))
    assert code == 2
    assert said == "error: linear cannot write its results: No space left on device; nothing half-written was kept\n"
    with pytest.raises(PermissionError):
        outcome(raising(PermissionError(errno.EACCES, "Permission denied")))


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(ZeroDivisionError):
        run("linear", raising(ZeroDivisionError()))
