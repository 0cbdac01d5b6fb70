"""Read a YAML file strictly, and report the faults that pydantic finds in the words of the file."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from prosmin.common.errors import ConfigError, UserError, listed, nearest, printable, shown
from stages.params.schema import keys, tag, tagged

# The beginning of a reference such as ${oc.env:HOME}, which DVC would resolve when it writes a
# changed setting into the file.
INTERPOLATION = "${"
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
    "dataclass_type": "a section of keys",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "given at least {min_length} entry",
    "too_long": "given at most {max_length} entries",
    "invalid_key": "text",
    "string_unicode": "text that UTF-8 can hold",
    "string_too_long": "text of at most {max_length} characters",
}


BYTES = 2**18  # of a file
DEPTH = 30  # of sections and lists in each other
VALUES = 20_000
FAULTS = 20  # reported at a time
# Numbers of another value in YAML 1.2, which DVC reads: 1:30 is 90 here and text there, 010 is 8
# here and 10 there.
AMBIGUOUS = re.compile(r":|^[-+]?0[\d_]+$")
# Tags of values that no setting has.
REFUSED = {f"tag:yaml.org,2002:{name}" for name in ("binary", "set", "omap", "pairs")}


class _Loader(yaml.SafeLoader):
    """YAML with plain values only, and of the size of a file of settings, its aliases written out.

    It refuses a key that stands twice, of which plain YAML silently keeps the last.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self.depth += 1
        if self.depth > DEPTH:
            raise _fault(f"it is nested more than {DEPTH} deep", self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        values, levels = _written_out(node, {}) if node is not None else (0, 0)
        if values > VALUES:
            raise _fault(
                f"it holds more than {VALUES} values, "
                "each counted as often as its aliases repeat it"
            )
        if levels > DEPTH:
            raise _fault(f"it is nested more than {DEPTH} deep with its aliases written out")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            if node.tag in REFUSED:
                raise _fault(
                    f"the tag {node.tag!r} is refused; lists and sections are written without",
                    node.start_mark,
                )
            return super().construct_object(node, deep)
        kind = node.tag.rpartition(":")[2]
        if INTERPOLATION in node.value:
            holds = f"{shown(node.value)} holds {INTERPOLATION!r}"
            why = "nothing is put in the place of such a reference"
            raise _Unreadable(f"{holds}, and {why}", node.start_mark)
        try:
            if node.tag in REFUSED or kind in ("int", "float") and AMBIGUOUS.search(node.value):
                raise ValueError
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except RecursionError:
            raise
        except Exception as error:  # PyYAML's readers of scalars raise many kinds for odd text
            reason = (
                str(error).partition(";")[0]
                if isinstance(error, ValueError) and kind == "timestamp"
                else ""
            )
            text = f"{shown(node.value)} cannot be read as {kind}{reason and f' ({reason})'}"
            raise _Unreadable(text, node.start_mark) from None


class _Unreadable(Exception):
    def __init__(self, text: str, mark: yaml.Mark):
        super().__init__(f"{text} (line {mark.line + 1}, column {mark.column + 1})")


def _fault(problem: str, mark: yaml.Mark | None = None) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of ``node`` with its aliases written out.

    An alias to a node that it stands in counts nothing.
    """
    if id(node) not in known:
        known[id(node)] = (0, 0)
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        inner = [_written_out(child, known) for child in children]
        known[id(node)] = (
            1 + sum(values for values, _ in inner),
            1 + max((levels for _, levels in inner), default=0),
        )
    return known[id(node)]


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise _fault("merge keys (<<) are refused; write the keys out", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise _fault("a key must be plain text", key_node.start_mark)
        if key in seen:
            raise _fault(f"key {shown(key)} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> dict[Any, Any]:
    """The sections of a YAML file. Raises ``UserError``, one sentence, where it has none."""
    try:
        with open(path, "rb") as file:
            given = file.read(BYTES + 1)
        if len(given) > BYTES:
            raise UserError(
                f"{path} is longer than {BYTES // 1024} kB, which no file of settings is"
            )
        content = yaml.load(given.decode(), Loader=_Loader)
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
        problem = " ".join((", ".join(filter(None, parts)) or str(error)).split())
        problem = problem if len(problem) <= 200 else f"{problem[:197]}..."
        raise UserError(f"{path} is not valid YAML: {problem}{place}") from None
    except _Unreadable as error:
        raise UserError(f"{path} holds a value that cannot be read: {error}") from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else "no sections"
        raise UserError(f"{path} holds {held}; it must hold named sections")
    return content


def first(lines: Iterable[str]) -> list[str]:
    """The first ``FAULTS`` lines; a last line says that there are more."""
    lines = iter(lines)
    faults = list(islice(lines, FAULTS))
    return (
        [*faults, "more is wrong than these; mend them first"]
        if next(lines, None) is not None
        else faults
    )


def refusal(path: Path, error: ValidationError, model: type[BaseModel]) -> UserError:
    """The first faults of a file, a line each behind its path."""
    lines = (line.removeprefix(": ") for line in sentences(error, model))
    return UserError("\n".join(f"{path}: {line}" for line in first(lines)))


def sentences(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """A line per fault of ``model``: dotted key, value, what is allowed, and the nearest name."""
    # Faulty entries of a list do not count towards its length; a list that only then seems too
    # short has no fault of its own.
    faults = (
        fault
        for fault in error.errors(include_url=False)
        if fault["type"] != "too_short" or len(fault["input"]) < fault["ctx"]["min_length"]
    )
    return (_sentence(fault, model) for fault in faults)


def _sentence(error: Any, model: type[BaseModel]) -> str:
    steps, section, here = _follow(error["loc"], model)
    key, value, kind, context = (
        ".".join(steps),
        error.get("input"),
        error["type"],
        error.get("ctx", {}),
    )
    if kind == "missing":
        return f"{key} is missing; it has no default"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(key, steps[-1], sorted(keys(section)), of=tag(section))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name = context["discriminator"].strip("'")
        return _choice(f"{key}.{name}", value.get(name), sorted(tagged(here)), given=name in value)
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return (
            _unknown(key, value, options)
            if error["loc"][-1] == "[key]"
            else _choice(key, value, options)
        )
    if kind == "value_error":
        reason = context["error"]
        if isinstance(reason, ConfigError):  # of one key of the section
            given = value.get(reason.key, reason.value) if isinstance(value, dict) else reason.value
            return f"{key}.{reason.key} is {shown(given)}; {reason.allowed}"
        if str(reason).startswith("must"):
            return f"{key} is {shown(value)}; it {reason}"
        return f"{key}: {reason}"
    context = {
        name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()
    }
    expected = (
        EXPECTED[kind].format(**context)
        if kind in EXPECTED
        else error["msg"].removeprefix("Input should be ")
    )
    return f"{key} is {shown(value)}; it must be {expected}"


def _unknown(key: str, name: str, options: list[str], of: str = "") -> str:
    of = of and f" of {of}"
    return f"{key} is not a known key{of}{nearest(name, options)}; allowed: {listed(options)}"


def _choice(key: str, value: Any, options: list[str], given: bool = True) -> str:
    allowed = f"allowed: {listed(options)}"
    return (
        f"{key} is {shown(value)}; {allowed}{nearest(value, options)}"
        if given
        else f"{key} is missing; {allowed}"
    )


def _follow(location: tuple[Any, ...], model: type[BaseModel]) -> tuple[list[str], Any, Any]:
    """Walk pydantic's path through the sections.

    Returns the keys as they stand in the file, the type before the last and the last type. The path
    also holds steps that are no keys: the tag of a union (``builtin``), and a mark for a mapping's
    key.
    """
    steps: list[str] = []
    section: Any = None
    here: Any = model
    for step in location:
        if step == "[key]":
            continue
        if step in tagged(here):
            here = tagged(here)[step]
        else:
            steps.append(printable(step))
            inner = get_args(here)[-1] if get_origin(here) is dict else None
            known = keys(here).get(step)
            section, here = here, inner or (known.kind if known else None)
    return steps, section, here
