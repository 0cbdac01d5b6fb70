"""Malformed datasets by name: their settings, what lays them out, and words of the error."""

from collections.abc import Callable
from typing import Any

MALFORMED: dict[str, tuple[dict[str, Any], Callable[[], Any], str]] = {}


def malformed(settings: dict[str, Any], message: str):
    """Register a function that lays out a malformed dataset, with the words its error must hold."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        MALFORMED[make.__name__] = (settings, make, message)
        return make

    return register
