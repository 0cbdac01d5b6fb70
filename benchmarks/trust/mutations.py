"""Random damage to files, as by a disk, a cable, a merge, a person or an attacker.

Each function takes the bytes of a file and a generator, and returns damaged bytes. Used by
``benchmarks.trust.mutants``.
"""

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from prosmin.common import files

Rng = np.random.Generator

BOMB = "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'lol'}]\n" for i in range(12)
)
HOSTILE = [
    None, True, False, 0, 1, -1, 2, 7, 10**9, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0,
    0.5, 1.0, 1.5, 4.0, -0.1, 1e-300, 1e30, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "x", "null", "nan", "1", "1e3", "digits", "patches", "digits\n", "a\0b",
    "../../etc/passwd", "${seed}", "x; touch y", "\u202e\u2028", "\x1b[31m", "é" * 300, "x" * 9000,
    [], [[]], {}, {"a": 1}, [1], [1, 2], [2, 1], [0.5, 1], ["x"], [None], [float("nan")],
    list(range(3000)), {1: 2}, [{"a": [1]}], {"x": {"y": {"z": 1}}}, ["digits"],
    ["digits", "digits"], [-1, 0], "near", "far", "all", 65536, 4096, 1000, 64,
]  # fmt: skip
SNIPPETS = [
    "seed: *x", "x: &x *x", "x: !!int ''", "x: !!float ''", "x: !!bool x", "x: !!timestamp x",
    "x: !!binary x", "x: !!set {a}", "x: !!omap [a: 1]", "x: !!python/object/apply:os.system [ls]",
    "x: !x 1", "<<: {seed: 1}", "<<: [*x]", "? [a]\n: 1", "? {a: b}", "\tseed: 1", "seed:\t1",
    "- 1", "---", "...", "%TAG ! x", "%YAML 3.0", "=: 1", "1: 2", "1.5: 2", "true: 3", "~: 4",
    "2026-01-01: 5", "seed: 2026-13-01", "seed: 1:30", "seed: 0o9", "seed: 0x", "seed: _",
    "seed: " + "9" * 5000, "seed: 0x" + "f" * 9000, "seed: " + "1:" * 3000 + "1",
    "seed: " + "[" * 3000, "seed: " + "{a: " * 3000, "- " * 3000, "'unclosed", '"\\ud800": 1',
    '"\\x1b[2J": 1', "x: |\n  y", "x: >-\n y", "[a, b]: 1", "{a: 1}: 1", "k" * 3000 + ": 1",
    "\ufeff", "\0", "\x07", "\x85", "\u2028", "pretrain: {}", "fetch: []", "fetch: {a: 1}",
    "ood: {sets: {digits: near}}", BOMB, BOMB + "seed: *x11",
    "\n".join(f"k{place}: 1" for place in range(3000)),
    "fetch:\n" + "".join(f"  d{i}: {{}}\n" for i in range(2000)),
]  # fmt: skip


def pick(rng: Rng, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


# --- bytes ----------------------------------------------------------------------------------------


def flip(content: bytes, rng: Rng) -> bytes:
    """Flip some bits, more often near the start, where the header is."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        end = min(len(changed), 600) if rng.random() < 0.5 else len(changed)
        changed[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(len(content)))]


def span(content: bytes, rng: Rng) -> bytes:
    """Replace a range by zeros, noise, nothing, itself twice, or another range of the file."""
    start, other = (int(rng.integers(len(content))) for _ in range(2))
    size = int(rng.integers(1, max(2, min(5000, len(content) // 2))))
    found = content[start : start + size]
    middle = pick(
        rng,
        [
            bytes(len(found)),
            rng.bytes(len(found)),
            b"",
            found * 2,
            content[other : other + size],
            b"\xff" * 8,
        ],
    )
    return content[:start] + middle + content[start + size :]


def replace(content: bytes, rng: Rng) -> bytes:
    return pick(
        rng,
        [
            b"",
            b"\0" * len(content),
            b"{}",
            b"null",
            b"[]",
            b"\xff\xfe",
            rng.bytes(200),
            b"version https://git-lfs\n",
        ],
    )


BYTES = [flip, flip, cut, span, span, replace]

# --- structure ------------------------------------------------------------------------------------


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside nested dicts and lists."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [each for key, value in items for each in [(*path, key), *places(value, (*path, key))]]


def restructure(content: Any, rng: Rng) -> Any:
    """Replace, remove or rename one to three values."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        if not (all_ := places(content)):
            break
        *steps, last = pick(rng, all_)
        inside = content
        for step in steps:
            inside = inside[step]
        how = rng.random()
        if how < 0.6:
            inside[last] = copy.deepcopy(pick(rng, HOSTILE))
        elif how < 0.8 or not isinstance(inside, dict):
            del inside[last]
        else:
            key = pick(
                rng, [f"{last}x", str(last)[:-1], "", "x" * 300, str(last).upper(), "\x1b", 5]
            )
            inside[key] = inside.pop(last)
    return content


def as_json(content: bytes, rng: Rng) -> bytes:
    changed = restructure(json.loads(content), rng)
    text = json.dumps(changed, indent=2)  # with NaN and Infinity, which are no JSON
    return text.encode("utf-8", "surrogatepass")


def head(content: bytes, rng: Rng) -> bytes:
    """Damage the JSON header of a safetensors file, or the length before it."""
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.3:
        lie = pick(rng, [0, 1, size - 1, size + 1, 2**31, 2**63 - 1, 2**64 - 1, 10**8])
        return struct.pack("<Q", lie) + content[8:]
    text = as_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def arrays(content: bytes, rng: Rng) -> bytes:
    """Remove an array of a safetensors file, or change its name, type, shape or content.

    The checksum is written for the new content, so it does not reveal the damage.
    """
    from safetensors.numpy import load, save

    size = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    found = load(content)
    name = pick(rng, sorted(found))
    array = found.pop(name)
    fill = pick(rng, [0, -1, 2**31, 2**62, np.nan, np.inf, -np.inf, 1e38])
    names = [f"{name}x", "", name[:-1], "test.features", "weight"]
    types = ["float16", "float64", "int8", "int64", "uint8", "bool"]
    changes: list[Callable[[], dict[str, np.ndarray]]] = [
        lambda: {},
        lambda: {pick(rng, names): array},
        lambda: {name: array.astype(pick(rng, types))},
        lambda: {name: array.reshape(-1)},
        lambda: {name: array[:0]},
        lambda: {name: array[1:]},
        lambda: {name: np.stack([array, array])},
        lambda: {name: np.ascontiguousarray(array.T)},
        lambda: {name: np.full_like(array, fill)},
        lambda: {name: np.where(rng.random(array.shape) < 0.1, fill, array).astype(array.dtype)},
    ]
    change = pick(rng, changes)
    with np.errstate(invalid="ignore"):
        try:
            found.update(change())
        except (OverflowError, IndexError):  # the type cannot hold the number; a scalar has no rows
            found[name] = array.reshape(1, -1)
    facts = {key: text for key, text in facts.items() if key != files.CHECKSUM}
    return save(found, facts | {files.CHECKSUM: files.checksum(found, facts)})


def words(content: bytes, rng: Rng) -> bytes:
    """Change a number or a name in a file of text, such as a CSV or the header of a .npy file."""
    lines = content.split(b"\n")
    place = int(rng.integers(min(len(lines), 40)))
    changes = [
        (b",", b""),
        (b",", b",,"),
        (b"0", b"nan"),
        (b"1", b"x"),
        (b".", b"e999"),
        (b"u", b"O"),
        (b"(", b"("),
        (b"5", b"99999999999"),
        (b"4", b"-4"),
        (b"'", b""),
        (b"|", b">"),
        (b"e", b"\0"),
    ]
    old, new = pick(rng, changes)
    lines[place] = lines[place].replace(old, new, int(rng.integers(1, 4)))
    return b"\n".join(lines)


def settings(content: bytes, rng: Rng) -> bytes:
    """Damage a YAML file: its structure, one of its lines, its encoding or its bytes."""
    how = rng.random()
    if how < 0.55:
        changed = restructure(yaml.load(content, yaml.CSafeLoader), rng)
        return yaml.dump(
            changed, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True
        ).encode("utf-8", "surrogatepass")
    if how < 0.8:
        lines = content.decode().split("\n")
        place = int(rng.integers(len(lines)))
        twice = lines[place]
        changes: list[Callable[[], Any]] = [
            lambda: lines.insert(place, pick(rng, SNIPPETS)),
            lambda: lines.insert(place, pick(rng, SNIPPETS)),  # listed twice: drawn twice as often
            lambda: lines.append(pick(rng, SNIPPETS)),
            lambda: lines.insert(place, twice),
            lambda: lines.pop(place),
            lambda: lines.__setitem__(place, "  " + twice),
            lambda: lines.__setitem__(place, twice.replace(":", "")),
        ]
        pick(rng, changes)()
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    if how < 0.85:
        text = content.decode()
        encodings = [
            text.encode("utf-16"),
            text.encode("utf-8-sig"),
            text.replace("\n", "\r\n").encode(),
            BOMB.encode(),
            text.replace("\n", "\r").encode(),
            text.encode() * 30,
            b"[" * 9000,
            b"x: &a [*a]",
        ]
        return pick(rng, encodings)
    return pick(rng, BYTES)(content, rng)
