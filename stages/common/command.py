"""How every stage starts and how it fails: one sentence on standard error, no traceback."""

import errno
import functools
import inspect
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError, cause, nearest, reason, say
from prosmin.common.startup import keep_freed_memory
from stages.common import inputs
from stages.common.launcher import check_arithmetic
from stages.common.stopping import raise_interrupts
from stages.common.threads import keep_to_share
from stages.common.workers import PEER_LOST, peer_lost
from stages.params.load import PARAMS, Params, load

# The key of a metrics file that says why its evaluation was left out.
LEFT_OUT = "left_out"

log = logging.getLogger(__name__)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Faults of the disk and limits of the machine: no defect of the stage.
_NAMES = (
    "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE ETIMEDOUT ENXIO ENODEV EMFILE ENFILE "
    "ENOMEM EAGAIN EBUSY ETXTBSY ENOLCK ELOOP ENAMETOOLONG EREMOTEIO"
)
OUTSIDE = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}


def run(stage: str, main: Callable[..., None]) -> None:
    """Call ``main(params, *arguments)`` for ``python -m stages.<stage> [arguments]`` and exit.

    The exit code is 0 when the stage is done, 2 for bad input, 130 when interrupted, 75 where
    another process of the stage has ended. Any other exception is a defect and shows its traceback.
    """
    raise_interrupts()
    try:
        logging.basicConfig(level=_level(), format=f"{stage}: %(message)s")
        text = inputs.params_text()
        params = load()  # reports faults of params.yaml; the readers below are less strict
        arguments = [_told(stage, argument) for argument in sys.argv[1:]]
        inputs.note(stage, arguments, text)
        try:
            inspect.signature(main).bind(params, *arguments)
        except TypeError:
            raise UserError(
                f"{stage} was given {shlex.join(arguments) or 'no argument'}; {_usage(stage, main)}"
            ) from None
        check_arithmetic()
        keep_to_share(stage)
        keep_freed_memory()
        main(params, *arguments)
        inputs.finish()
    except ConfigError as error:
        _fail(f"{PARAMS}: {stage}.{error}")
    except UserError as error:
        _fail(with_command(error))
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        _fail(f"{stage} cannot go on: {cause(error)}; nothing half-written was kept")
    except (MemoryError, RuntimeError) as error:
        if peer_lost(error):
            log.warning("another process of this stage has ended (%s)", reason(error))
            sys.exit(PEER_LOST)
        if not _out_of_memory(error):
            raise
        _fail(
            f"{stage} needs more memory than there is ({reason(error)}); "
            f"ask for less at a time in {PARAMS}: a smaller batch_size, image or encoder"
        )
    except KeyboardInterrupt:
        print(f"{stage}: interrupted; nothing half-written was kept", file=sys.stderr)
        sys.exit(130)
    finally:
        inputs.forget()  # the next stage in this process has other inputs


# The target of DVC that does what the last words of an error of the library ask for.
TARGETS = {files.AGAIN: "", files.FETCH: " fetch@{dataset}", files.PRETRAIN: " pretrain"}


def with_command(error: UserError) -> str:
    """Return the message of an error, with the command where it ends with a remedy."""
    message = str(error)
    remedy = next((words for words in TARGETS if message.endswith(words)), None)
    if remedy is None:
        return message
    target = TARGETS[remedy]
    if remedy == files.FETCH:
        dataset = re.match(r"data/([^/\s]+)", message)
        target = target.format(dataset=dataset[1]) if dataset else ""
    return f"{message}: `dvc repro{target}`"


def _told(stage: str, argument: str) -> str:
    """An argument without DVC's address: ``digits`` for ``fetch@digits`` or ``x:fetch@digits``."""
    return re.sub(rf"^(.*:)?{stage}@", "", argument, count=1, flags=re.DOTALL)


confirm = inputs.confirm  # for a stage that has something to lose by going on
leave_to_the_first = inputs.forget  # for the other processes of a stage that runs as several


def check_name(stage: str, what: str, name: str, names: Collection[str]) -> None:
    """Check the argument of a stage against the names in ``params.yaml``.

    what: the kind of name, for the message.

    Raises:
        UserError: where ``name`` is not in ``names``.
    """
    if name not in names:
        raise UserError(
            f"{stage} needs {what}, not {name!r}; "
            f"params.yaml has {', '.join(names) or 'none'}{nearest(name, names)}"
        )


class Unlabelled(UserError):
    """A dataset has no labels: an evaluation that needs them is left out, and the graph goes on."""


def needs_labels(
    metrics: str | Path, plot: str | Path, columns: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate the ``main`` of a stage: where it raises ``Unlabelled``, it is left out.

    Both of its files are then written with the reason alone.

    metrics, plot: their paths, where ``{}`` stands for the argument of the stage.
    columns: of the plot, which gets no rows.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(main)
        def main_or_reason(params: Params, *arguments: str) -> None:
            try:
                main(params, *arguments)
            except Unlabelled as error:
                log.warning("%s, which this evaluation needs: it is left out", error)
                files.write_csv(str(plot).format(*arguments), columns, [])
                files.write_metrics(str(metrics).format(*arguments), {LEFT_OUT: f"{error}."})

        return main_or_reason

    return decorate


def _level() -> str:
    level = os.environ.get("PROSMIN_LOG", "INFO")
    if level not in LEVELS:
        raise UserError(
            f"PROSMIN_LOG is {level!r}; "
            f"it must be one of {', '.join(LEVELS)}{nearest(level.upper(), LEVELS)}"
        )
    return level


def _out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out. torch raises a ``RuntimeError`` then, on a CPU a plain one."""
    told = ("allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in told)


def _usage(stage: str, main: Callable[..., None]) -> str:
    names = [name.upper() for name in list(inspect.signature(main).parameters)[1:]]
    return f"start it as: python -m stages.{' '.join([stage, *names])}"


def _fail(message: str) -> None:
    say(message)
    sys.exit(2)
