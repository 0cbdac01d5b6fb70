"""The keys of a section, of a pydantic model as of a plain dataclass."""

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel


@dataclass(frozen=True)
class Key:
    """A key of a section. kind: type of its value. default: meaningless for a required key."""

    kind: Any
    required: bool
    default: Any


def keys(kind: Any) -> dict[str, Key]:
    """The keys of a section by the names that they have in the file; empty for any other type."""
    match _sections(kind):
        case [section] if issubclass(section, BaseModel):
            return {
                field.alias or name: Key(field.annotation, field.is_required(), field.default)
                for name, field in section.model_fields.items()
            }
        case [section]:
            kinds = get_type_hints(section, include_extras=True)
            return {
                field.name.rstrip("_"): Key(
                    kinds[field.name],
                    field.default is MISSING and field.default_factory is MISSING,
                    field.default,
                )
                for field in fields(section)
            }
    return {}


def _sections(kind: Any) -> list[type]:
    """The classes of sections among the members of a union; a section of its own is alone."""
    if get_origin(kind) is dict:
        return []
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel)):
        return [kind]
    return [section for member in get_args(kind) for section in _sections(member)]


def tag(section: Any) -> str:
    """The tag of ``section`` in a union, the only value of one of its keys; or ``""``."""
    for key in keys(section).values():
        if get_origin(key.kind) is Literal and len(get_args(key.kind)) == 1:
            return str(get_args(key.kind)[0])
    return ""


def tagged(kind: Any) -> dict[str, type]:
    """The members of a tagged union by their tags; empty for any other type."""
    members = _sections(kind)
    return {tag(member): member for member in members} if len(members) > 1 else {}
