"""What a point takes from whoever may start runs on the server."""

import pytest

from pipelines.machines.point_flow import run_point

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"snapshot": "--output=x"},
            "snapshot is '--output=x'; it must be the full id of a commit",
        ),
        ({"snapshot": f"{COMMIT}+../x"}, "it must be the full id of a commit"),
        ({"name": "../x"}, "'../x' cannot be the name of an experiment"),
        ({"sweep": "a/../../heads/main"}, "cannot be the name of an experiment"),
    ],
)
def test_a_name_that_git_or_the_disk_would_read_otherwise_is_refused(
    api, prefect_home, monkeypatch, tmp_path, changed, why
):
    monkeypatch.chdir(tmp_path)
    for name, value in {**api, "PREFECT_HOME": str(prefect_home)}.items():
        monkeypatch.setenv(name, value)
    given = {"name": "one", "sweep": "sizes", "snapshot": COMMIT, "changes": {}} | changed
    state = run_point(**given, return_state=True)
    assert state.is_failed() and why in state.message
    assert list(tmp_path.iterdir()) == []
