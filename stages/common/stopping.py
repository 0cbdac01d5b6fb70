"""End at Ctrl-C while modules load, when there is nothing to clean up.

Some packages would take the interrupt for a broken installation. ``python -m stages.<stage>`` and
``python -m pipelines.<command>`` call this before they load anything else.
"""

import os
import signal  # and nothing that takes longer to load


def end_at_once() -> None:
    """Let Ctrl-C end this process with code 130 and one line, until ``raise_interrupts``."""
    # In the background of a script it is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    # A guard holds it back until here (pipelines/engine/guard.py).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def raise_interrupts() -> None:
    """Ctrl-C is a ``KeyboardInterrupt`` again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os.write(2, b"interrupted before anything was begun\n")
    os._exit(128 + number)
