"""A YAML file read strictly, and what pydantic finds wrong with it told in the words of the file."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from prosmin.errors import UserError, nearest

# pydantic's kinds of error as what the value must be.
EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "given at least {min_length} entry",
    "too_long": "given at most {max_length} entries",
    "invalid_key": "text",
}


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice (plain YAML keeps the last one silently)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> dict[Any, Any]:
    """The sections of a YAML file; a ``UserError`` of one sentence for each way of having none."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run this in the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        parts = [getattr(error, name, None) for name in ("context", "problem")]
        problem = ", ".join(filter(None, parts)) or " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {problem}{place}") from None
    except ValueError as error:  # from inside YAML: a date without such a day, a number of thousands of digits
        raise UserError(f"{path} holds a value that cannot be read: {str(error).partition(';')[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {'nothing' if content is None else 'no sections'}; it must hold named sections")
    return content


def shown(value: Any) -> str:
    """A value as YAML writes it, cut where it would fill the screen."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What pydantic found wrong with ``model``, a line each: dotted key, value, what is allowed, nearest name."""
    # A list that only seems too short, because its faulty entries do not count, is no fault of its own.
    faults = [
        each for each in error.errors() if each["type"] != "too_short" or len(each["input"]) < each["ctx"]["min_length"]
    ]
    return [_sentence(fault, model) for fault in faults]


def _sentence(error: Any, model: type[BaseModel]) -> str:
    steps, section, here = _follow(error["loc"], model)
    key, value, kind, context = ".".join(steps), error.get("input"), error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{key} is missing; it has no default"
    if kind == "extra_forbidden":
        return _unknown(key, steps[-1], sorted(_fields(section)))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        return _choice(f"{key}.{tag}", value.get(tag), sorted(_tagged(here)), given=tag in value)
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return _unknown(key, value, options) if error["loc"][-1] == "[key]" else _choice(key, value, options)
    if kind == "value_error":
        reason = str(context["error"])
        return f"{key} is {shown(value)}; it {reason}" if reason.startswith("must") else f"{key}: {reason}"
    expected = EXPECTED[kind].format(**context) if kind in EXPECTED else error["msg"].removeprefix("Input should be ")
    return f"{key} is {shown(value)}; it must be {expected}"


def _unknown(key: str, name: str, options: list[str]) -> str:
    return f"{key} is not a known key{nearest(name, options)}; allowed: {', '.join(options)}"


def _choice(key: str, value: Any, options: list[str], given: bool = True) -> str:
    allowed = f"allowed: {', '.join(options)}"
    return f"{key} is {shown(value)}; {allowed}{nearest(value, options)}" if given else f"{key} is missing; {allowed}"


def _follow(location: tuple[Any, ...], model: type[BaseModel]) -> tuple[list[str], Any, Any]:
    """Walk pydantic's path through the models: (keys as they stand in the file, type before the last, last type).

    The path also holds steps that are no keys: the tag of a union (``builtin``), and a mark for a mapping's key.
    """
    steps: list[str] = []
    section: Any = None
    here: Any = model
    for step in location:
        if step == "[key]":
            continue
        if get_origin(here) is not dict and step in _tagged(here):
            here = _tagged(here)[step]
        else:
            steps.append(str(step))
            section, here = here, get_args(here)[-1] if get_origin(here) is dict else _fields(here).get(step)
    return steps, section, here


def _fields(annotation: Any) -> dict[str, Any]:
    """The keys of a section with their types, by the names they have in the file."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}


def _tagged(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a tagged union by their tags; empty for every other type."""
    union = get_args(get_args(annotation)[0]) if get_args(annotation) else ()
    return {get_args(found["source"])[0]: member for member in union if "source" in (found := _fields(member))}
