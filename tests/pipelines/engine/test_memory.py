"""The memory that stages share: the lowest limit of machine and control groups."""

import pytest

from pipelines.engine.memory import RUN, for_stages, total
from prosmin.common.errors import UserError

MIB = 2**20
LOW = 64 * MIB  # less than any machine has


@pytest.fixture
def limited(tmp_path):
    """The memory of a process in a group, where these files hold limits."""

    def memory(group: str, **limits: str) -> int:
        (tmp_path / "groups").write_text(f"12:cpu,cpuacct:/other\n{group}\n")
        for path, limit in limits.items():
            file = tmp_path / "mounted" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{limit}\n")
        return total(tmp_path / "groups", tmp_path / "mounted")

    return memory


def test_the_lowest_limit_of_a_group_and_those_above_it_counts(limited):
    inner = {"a/memory.max": "max", "a/b/memory.max": str(3 * LOW)}
    assert limited("0::/a/b", **inner) == 3 * LOW
    assert limited("0::/a/b", **{"a/memory.high": str(2 * LOW)}) == 2 * LOW
    assert limited("0::/a/b", **{"memory.max": str(LOW)}) == LOW


def test_groups_of_the_first_version_and_of_a_container_count(limited):
    unlimited = {"memory/memory.limit_in_bytes": "9223372036854771712"}
    assert limited("4:memory:/docker/0123", **unlimited) >= total()
    assert limited("4:memory:/a", **{"memory/a/memory.limit_in_bytes": str(2 * LOW)}) == 2 * LOW
    # The group of the host does not exist inside; the top of what is mounted is its own.
    assert limited("4:memory:/docker/0", **{"memory/memory.limit_in_bytes": str(LOW)}) == LOW


def test_a_kernel_without_groups_has_the_memory_of_the_machine(tmp_path):
    assert total(tmp_path / "none", tmp_path) >= total() > 0


def test_the_environment_goes_first_and_the_run_keeps_some_else(monkeypatch):
    monkeypatch.delenv("PROSMIN_MEMORY", raising=False)
    assert for_stages() == max(0, total() - RUN)
    monkeypatch.setenv("PROSMIN_MEMORY", "512MiB")
    assert for_stages() == 512 * MIB
    monkeypatch.setenv("PROSMIN_MEMORY", "half")
    with pytest.raises(UserError, match="^PROSMIN_MEMORY is 'half'; it must be a number above 0"):
        for_stages()
