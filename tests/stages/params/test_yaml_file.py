"""Files that are no settings: one line each; and other ways to write the same settings."""

from pathlib import Path

import pytest

from prosmin.common.errors import UserError
from stages.params.load import load

ROOT = Path(__file__).parents[3]
GIVEN = (ROOT / "params.yaml").read_text()
GRID = "[0.000001, 0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0]"

UNREADABLE = {
    "empty": (b"", "params.yaml holds nothing; it must hold named sections"),
    "comments only": (
        b"# dataset: digits\n",
        "params.yaml holds nothing; it must hold named sections",
    ),
    "list on top": (
        b"- dataset\n- seed\n",
        "params.yaml holds no sections; it must hold named sections",
    ),
    "text on top": (b"dataset\n", "params.yaml holds no sections; it must hold named sections"),
    "open bracket": (
        b"dataset: [digits\n",
        "params.yaml is not valid YAML: ",
        "(line 2, column 1)",
    ),
    "tab": (b"knn:\n\tk: [1]\n", "params.yaml is not valid YAML: ", "'\\t'", "(line 2, column 1)"),
    "indentation": (
        b"knn:\n  k: [1]\n temperature: [1]\n",
        "params.yaml is not valid YAML: ",
        "(line 3, column 2)",
    ),
    "key twice": (
        b"seed: 1\nseed: 2\n",
        "params.yaml is not valid YAML: key 'seed' stands twice (line 2, column 1)",
    ),
    "key twice inside": (
        b"knn:\n  k: [1]\n  k: [2]\n",
        "params.yaml is not valid YAML: key 'k' stands twice (line 3, column 3)",
    ),
    "two documents": (
        b"seed: 1\n---\nseed: 2\n",
        "params.yaml is not valid YAML: expected a single document",
    ),
    "list as a key": (b"{[seed]: 1}\n", "params.yaml is not valid YAML: a key must be plain text"),
    "unknown tag": (
        b"seed: !!python/name:os.system\n",
        "params.yaml is not valid YAML: could not determine a constructor",
    ),
    "inside itself": (
        b"knn: &knn {k: *knn}\n",
        "params.yaml is not valid YAML: found unconstructable recursive node",
    ),
    "no such day": (b"seed: 2026-02-30\n", "params.yaml holds a value that cannot be read: "),
    "endless number": (b"seed: " + b"9" * 5000, "params.yaml holds a value that cannot be read: "),
    "zero byte": (b"seed: \0\n", "params.yaml is not valid YAML: unacceptable character"),
    "Latin-1": (
        "dataset: ziffern_f\xfcr_alle\n".encode("latin-1"),
        "params.yaml is not UTF-8 text",
    ),
    "empty whole number": (
        b"seed: !!int ''\n",
        "params.yaml holds a value that cannot be read: '' cannot be read as int",
    ),
    "empty number": (
        b"seed: !!float ''\n",
        "params.yaml holds a value that cannot be read: '' cannot be read as float",
    ),
    "odd truth": (
        b"seed: !!bool x\n",
        "params.yaml holds a value that cannot be read: 'x' cannot be read as bool",
    ),
    "odd date": (
        b"seed: !!timestamp x\n",
        "params.yaml holds a value that cannot be read: 'x' cannot be read as time",
    ),
    "bytes": (
        b"dataset: !!binary ZGlnaXRz\n",
        "params.yaml holds a value that cannot be read: 'ZGlnaXRz' cannot be",
    ),
    "set": (
        b"dataset: !!set {a, b}\n",
        "params.yaml is not valid YAML: the tag 'tag:yaml.org,2002:set' is refused",
    ),
    "hours and minutes": (
        b"seed: 1:30\n",
        "params.yaml holds a value that cannot be read: '1:30' cannot be read as int",
    ),
    "octal number": (  # 8 for YAML 1.1, 10 for DVC
        b"seed: 010\n",
        "params.yaml holds a value that cannot be read: '010' cannot be read as int",
    ),
    "negative octal number": (
        b"seed: -0_7\n",
        "params.yaml holds a value that cannot be read: '-0_7' cannot be read as int",
    ),
    "hours without end": (
        b"seed: " + b"1:" * 9999 + b"1",
        "params.yaml holds a value that cannot be read: '1:1:1:1:",
    ),
    "open brackets": (
        b"seed: " + b"[" * 3000,
        "params.yaml is not valid YAML: it is nested more than 30 deep (line 1",
    ),
    "closed brackets": (
        b"seed: " + b"[" * 3000 + b"]" * 3000,
        "params.yaml is not valid YAML: it is nested more than",
    ),
    "alias bomb": (
        "".join(
            [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'lol'}]\n" for i in range(12)]
        ).encode(),
        "params.yaml is not valid YAML: it holds more than 20000 values, each counted as often as ",
        "its aliases repeat it",
    ),
    "alias bomb for a scalar": (
        "".join(
            [
                f"x{i}: &x{i} {{{', '.join(f'k{j}: *x{i - 1}' for j in range(9))}}}\n"
                if i
                else "x0: &x0 {a: 1}\n"
                for i in range(12)
            ]
        ).encode()
        + b"seed: *x11\n",
        "params.yaml is not valid YAML: it holds more than 20000 values",
    ),
    "merge": (
        b"a: &a {x: 1}\nb:\n  <<: *a\n",
        "params.yaml is not valid YAML: merge keys (<<) are refused; write the",
    ),
    "100 000 keys": (
        b"".join(b"k%d: 1\n" % i for i in range(100_000)),
        "params.yaml is longer than 256 kB",
    ),
    "UTF-16": (GIVEN.encode("utf-16"), "params.yaml is not UTF-8 text"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_one_line(case, complaints):
    content, start, *rest = UNREADABLE[case]
    (line,) = complaints(content)
    assert line.startswith(start)
    assert all(part in line for part in rest)


@pytest.mark.parametrize(
    "content",
    [
        GIVEN.encode("utf-8-sig"),
        GIVEN.replace("\n", "\r\n").encode(),
        GIVEN.replace(f"  l2: {GRID}", f"  l2: &grid {GRID}", 1)
        .replace(f"  l2: {GRID}", "  l2: *grid")
        .encode(),
    ],
    ids=["byte order mark", "line ends of Windows", "anchor"],
)
def test_other_ways_to_write_the_same_are_read(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    assert load(tmp_path / "params.yaml") == load(ROOT / "params.yaml")


def test_a_missing_file_and_a_folder_in_its_place_are_one_sentence_each(tmp_path):
    with pytest.raises(UserError, match="does not exist; run this in the folder that holds it$"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory$"):
        load(tmp_path / "params.yaml")
