"""Errors that are the user's to mend: one sentence each, shown without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one clear sentence: what, which value, what is allowed."""


class ConfigError(UserError):
    """A setting that cannot work, found where its meaning is known rather than where it was read.

    key: dotted name relative to the section it stands in, such as ``encoder.name``; a stage puts the
    name of its section before it.
    """

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key} is {value!r}; {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


def nearest(name: str, options: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the option closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
