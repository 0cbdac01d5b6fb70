"""The page of a run shows the curves of a training while it goes on."""

import sys
from types import SimpleNamespace

from pipelines.flows import progress
from prosmin.common import files
from stages.common import layout
from tests.pipelines.projects import ROOT


def test_curves_are_drawn_when_they_have_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    drawn = []
    artifacts = SimpleNamespace(
        create_markdown_artifact=lambda text, key, description: drawn.append((key, text))
    )
    monkeypatch.setitem(sys.modules, "prefect", SimpleNamespace(artifacts=artifacts))
    monkeypatch.setitem(sys.modules, "prefect.artifacts", artifacts)
    files.write_csv(layout.ONLINE_PROBE, ("step", "epoch", "probe_accuracy"), [])
    shown = object.__new__(progress.Progress)
    shown._curves = progress._curves()
    assert list(shown._curves) == [str(layout.ONLINE_PROBE)]
    shown.draw()
    assert not drawn  # as at the start of the run
    files.write_csv(layout.LOSS, ("step", "epoch", "loss"), [(4, 1, 0.5), (8, 2, 0.25)])
    shown.draw()
    shown.draw()
    ((key, text),) = drawn
    assert key == "training" and text.count("data:image/svg+xml;base64,") == 1
    assert text.startswith("**Training loss**")


def test_another_graph_has_no_such_curves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert progress._curves() == {}
    (tmp_path / "dvc.yaml").write_text("stages: {leaf: {cmd: 'true'}}")
    assert progress._curves() == {}
