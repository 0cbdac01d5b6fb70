"""Errors that are the user's to mend: one sentence each, shown without a traceback."""

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

SHOWN = 80  # characters of a value in a message
TOLD = 400  # where the value is what the message is about, such as a long path
LISTED = 30  # names in a message
COMPARED = 2000  # names that a misspelt one is compared with


class UserError(Exception):
    """Bad input. The message is one clear sentence: what, which value, what is allowed."""


class ConfigError(UserError):
    """A setting that cannot work, found where its meaning is known rather than where it was read.

    key: dotted name relative to the section it stands in, such as ``encoder.name``; a stage puts the
    name of its section before it.
    """

    def __init__(self, key: str, value: object, allowed: str):
        written = repr(value) if value is None or isinstance(value, bool) else shown(value, TOLD)
        super().__init__(f"{key} is {written}; {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


def reason(error: BaseException) -> str:
    """Why another library gave up, on one line: its message, with the kind of error where that says little alone."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    wordy = isinstance(error, OSError | ValueError | RuntimeError | AssertionError) and text
    return text if wordy else f"{type(error).__name__}{text and ': '}{text}"


def nearest(name: str, options: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the option closest to ``name``, or an empty string."""
    if len(name := name if isinstance(name, str) else shown(name)) > SHOWN:
        return ""  # no slip of the pen, and to compare it would take seconds
    found = difflib.get_close_matches(
        name, [str(option) for option in islice(options, COMPARED)], n=1, cutoff=0.6
    )
    return f" (did you mean {found[0]!r}?)" if found else ""


def shown(value: Any, most: int = SHOWN) -> str:
    """A value as YAML writes it, on one line and cut where it would fill the screen. No more of a long or deep value is looked at
    than is shown."""
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            return f"{text[: most - 3]}..."
    return text


def _pieces(value: Any, most: int) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str | bytes):
        yield repr(value[: most + 1])
    elif (
        isinstance(value, int) and abs(value) >= 10**SHOWN
    ):  # of which Python writes some thousand digits and no more
        yield f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    elif isinstance(value, Mapping):
        for place, (key, each) in enumerate(value.items()):
            yield ", " if place else "{"
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(each, most)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield ", " if place else "[("[isinstance(value, tuple)]
            yield from _pieces(each, most)
        yield ("])" if value else ["[]", "()"])[isinstance(value, tuple)]
    else:
        yield repr(value)


def say(error: object) -> None:
    """Write each line of a message on standard error. Codes for the screen, in a file's name or content, are spelt out."""
    for line in str(error).splitlines():
        shown_as = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in line
        )
        print(f"error: {shown_as}", file=sys.stderr)


def printable(text: object) -> str:
    """A name as it is, where it can stand on one line of a screen; else as ``shown`` has it."""
    text = str(text)
    return text if text and text.isprintable() and len(text) <= SHOWN else shown(text)


def listed(names: Iterable[object]) -> str:
    """Names with commas between them; of very many the first ``LISTED``."""
    names = iter(names)
    first = [printable(name) for name in islice(names, LISTED)]
    return ", ".join([*first, "..."] if next(names, None) is not None else first)
