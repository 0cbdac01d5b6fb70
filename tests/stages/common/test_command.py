import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from stages.common.command import LEFT_OUT, Unlabelled, needs_labels, run

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize(
    ("remedy", "command"),
    [
        (files.AGAIN, "`dvc repro`"),
        (files.FETCH, "`dvc repro`"),
        (files.PRETRAIN, "`dvc repro pretrain`"),
    ],
)
def test_the_command_is_added_to_the_remedy_of_an_error(outcome, remedy, command):
    code, said = outcome(raising(UserError(f"it cannot be read; {remedy}")))
    assert (code, said) == (2, f"error: it cannot be read; {remedy}: {command}\n")


def test_an_argument_too_many_or_too_few_says_how_to_start_the_stage(outcome):
    code, said = outcome(lambda params: None, "digits")
    assert (code, said) == (
        2,
        "error: linear was given digits; start it as: python -m stages.linear\n",
    )
    code, said = outcome(lambda params, name: None)
    assert (code, said) == (
        2,
        "error: linear was given no argument; start it as: python -m stages.linear NAME\n",
    )


@pytest.mark.parametrize(
    ("name", "value", "harmless"),
    [
        ("NVIDIA_TF32_OVERRIDE", "1", "0"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "STRICT"),
    ],
)
def test_a_variable_that_makes_float32_less_exact_is_refused(
    outcome, monkeypatch, name, value, harmless
):
    monkeypatch.setenv(name, harmless)
    assert outcome(raising(UserError("it has begun"))) == (2, "error: it has begun\n")
    monkeypatch.setenv(name, value)
    code, said = outcome(raising(UserError("it has begun")))
    assert code == 2 and said.startswith(f"error: the environment has {name}='{value}', by which")


def test_an_interruption_is_told_by_its_exit_code(outcome):
    code, said = outcome(raising(KeyboardInterrupt()))
    assert code == 130 and "interrupted" in said


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "EMFILE"])
def test_a_fault_of_the_disk_or_a_limit_of_the_machine_is_one_line(outcome, name):
    number = getattr(errno, name)
    code, said = outcome(raising(OSError(number, os.strerror(number), "results/linear")))
    assert code == 2
    assert (
        said == f"error: linear cannot go on: {os.strerror(number)} (results/linear); "
        "nothing half-written was kept\n"
    )


def test_another_fault_of_a_file_is_a_defect(outcome):
    with pytest.raises(FileNotFoundError):
        outcome(raising(FileNotFoundError(errno.ENOENT, "No such file or directory")))


def test_an_unknown_level_of_messages_is_one_line(outcome, monkeypatch):
    monkeypatch.setenv("PROSMIN_LOG", "warnin")
    code, said = outcome(lambda params: None)
    assert code == 2
    assert said == (
        "error: PROSMIN_LOG is 'warnin'; it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL "
        "(did you mean 'WARNING'?)\n"
    )


# An import of NumPy that is interrupted says that NumPy is not installed well, if it is let.
INTERRUPTED = """
import os, runpy, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
module = sys.argv[1]
sys.argv[:] = ["-m"]  # as the interpreter has it until it knows the file
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["stages.linear", "stages.report"])
def test_an_interrupt_while_modules_load_is_no_traceback(module):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted before anything was begun\n")


def test_a_backend_of_matplotlib_that_does_not_exist_changes_nothing(tmp_path):
    command = [sys.executable, "-m", "stages.report", "too", "many"]
    variables = {**os.environ, "MPLBACKEND": "nope"}
    said = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True).stderr
    assert said == "error: report was given too many; start it as: python -m stages.report\n"


def test_codes_for_the_screen_in_a_message_are_spelt_out(outcome):
    assert outcome(raising(UserError("a\x1b[31mb.png\x0f é"))) == (
        2,
        "error: a\\x1b[31mb.png\\x0f é\n",
    )


def test_too_little_memory_is_one_line(outcome):
    import torch

    def too_large(params):
        torch.zeros(2**50)

    for main in (
        too_large,
        raising(MemoryError("Unable to allocate 8 PiB")),
        raising(torch.OutOfMemoryError("CUDA out of memory")),
    ):
        code, said = outcome(main)
        assert (
            code == 2
            and said.startswith("error: linear needs more memory than there is (")
            and said.count("\n") == 1
        )


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(ZeroDivisionError):
        run("linear", raising(ZeroDivisionError()))


@pytest.mark.parametrize("arguments", [(), ("birds",)])
def test_an_evaluation_without_labels_is_left_out_with_its_reason(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    name = "/{}" if arguments else ""

    files_of = Path(f"metrics/shift{name}.json"), Path(f"plots/shift{name}.csv")

    @needs_labels(*files_of, ("encoder", "accuracy"))
    def main(params, *given):
        raise Unlabelled("the train split has no labels")

    main(None, *arguments)
    path = "shift/birds" if arguments else "shift"
    reason = {LEFT_OUT: "the train split has no labels."}
    assert files.read_json(f"metrics/{path}.json") == reason
    assert Path(f"plots/{path}.csv").read_text() == "encoder,accuracy\n"


def test_an_evaluation_with_labels_writes_by_itself_and_other_faults_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @needs_labels(Path("metrics.json"), Path("plot.csv"), ())
    def main(params, name=""):
        raise UserError(f"{name} is unknown")

    with pytest.raises(UserError, match="birds is unknown"):
        main(None, "birds")
    assert not any(tmp_path.iterdir())
