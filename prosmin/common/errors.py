"""Errors that a user can mend: one sentence, shown without a traceback."""

import difflib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

SHOWN = 80  # characters of a value in a message
TOLD = 400  # characters of the value that a message is about, such as a long path
LISTED = 30  # names in a message
COMPARED = 2000  # names that a misspelt one is compared with


class UserError(Exception):
    """Bad input. The message is one sentence: the key or file, its value, what is allowed."""


class ConfigError(UserError):
    """A setting that cannot work, raised where its meaning is known.

    key: dotted name relative to the section of the setting, such as ``encoder.name``; the caller
        puts the name of the section before it.
    value: of the setting.
    allowed: a sentence on what the setting may be.
    """

    def __init__(self, key: str, value: object, allowed: str):
        written = repr(value) if value is None or isinstance(value, bool) else shown(value, TOLD)
        super().__init__(f"{key} is {written}; {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


def reason(error: BaseException) -> str:
    """Return the message of another library's error on one line.

    The type of the error comes first where the message says little without it.
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    wordy = isinstance(error, OSError | ValueError | RuntimeError | AssertionError) and text
    return text if wordy else f"{type(error).__name__}{text and ': '}{text}"


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the option closest to ``name``, or an empty text."""
    if len(name := name if isinstance(name, str) else shown(name)) > SHOWN:
        return ""  # no misspelling, and a comparison would take seconds
    close = difflib.get_close_matches(name, map(str, islice(options, COMPARED)), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: Any, most: int = SHOWN) -> str:
    """Write a value as YAML does, on one line, cut after ``most`` characters.

    The rest of a long or deep value is not visited.
    """
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
    elif isinstance(value, int) and abs(value) >= 10**SHOWN:  # Python refuses to write very many
        yield f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    elif isinstance(value, Mapping):
        for place, (key, inner) in enumerate(value.items()):
            yield ", " if place else "{"
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(inner, most)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield ", " if place else "[("[isinstance(value, tuple)]
            yield from _pieces(inner, most)
        yield ("])" if value else ["[]", "()"])[isinstance(value, tuple)]
    else:
        yield repr(value)


def cause(error: OSError) -> str:
    """The words of the system for an error, with the file in brackets where it is known."""
    words = error.strerror or str(error)
    return f"{words} ({error.filename})" if error.filename else words


def say(error: object) -> None:
    """Write each line of a message on standard error, with escapes for unprintable characters.

    The name or content of a file could otherwise send codes to the terminal.
    """
    for line in str(error).splitlines():
        safe = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
        )
        print(f"error: {safe}", file=sys.stderr)


def printable(text: object) -> str:
    """Return a name as it is where it fits on a line of a screen, else as ``shown`` writes it."""
    text = str(text)
    return text if text and text.isprintable() and len(text) <= SHOWN else shown(text)


def listed(names: Collection[object], most: int = LISTED) -> str:
    """Join names by commas; of more than ``most`` names the first, as ``cat, dog, … (12)``."""
    first = [printable(name) for name in islice(names, most)]
    return ", ".join([*first, f"… ({len(names)})"] if len(names) > most else first)
