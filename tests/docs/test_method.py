"""docs/method.md says of every baseline what its settings say."""

from dataclasses import fields
from pathlib import Path

import pytest

from prosmin.objectives.settings import TRAINED

PAGE = Path(__file__).parents[2] / "docs/method.md"
BASELINES = [name for name in TRAINED if name not in ("prosmin", "published")]


@pytest.mark.parametrize("name", BASELINES)
def test_the_table_has_the_keys_and_defaults_of_a_baseline(name):
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    keys = [field for field in fields(TRAINED[name]) if field.name != "name"]
    expected = ", ".join(f"`{field.name}: {field.default}`" for field in keys)
    assert row.split("|")[3].strip() == expected
