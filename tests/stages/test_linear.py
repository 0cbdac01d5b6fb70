"""The linear stage on real features: what it writes, repeatably, and how it fails."""

from pathlib import Path

from prosmin.common import files
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import classification
from stages import linear
from stages.linear import load_probe


def test_it_writes_probes_metrics_and_the_reliability_diagram(workplace, params):
    linear.main(params)
    assert sorted(workplace.written()) == [
        "metrics/linear.json",
        "plots/linear/reliability.csv",
        *(
            f"results/linear/{name}.safetensors"
            for name in ("random", "random_train", "trained", "trained_train")
        ),
    ]
    written = files.read_json("metrics/linear.json")
    assert list(written) == ["trained", "random"]
    for encoder, values in written.items():
        arrays = workplace.features["digits", encoder]
        probe = Probe.load(f"results/linear/{encoder}.safetensors")
        logits, labels = probe.logits(arrays["test.features"]), arrays["test.labels"]
        assert values["accuracy"] == files.rounded(classification.accuracy(logits, labels))
        assert values["nll_calibrated"] == files.rounded(
            classification.nll(logits / probe.temperature, labels)
        )
        assert values["n"] == 250 and values["l2"] in params.linear.l2
        rows = [
            row
            for row in files.read_csv("plots/linear/reliability.csv")
            if row["encoder"] == encoder
        ]
        for kind in ("raw", "calibrated"):
            assert sum(int(row["count"]) for row in rows if row["calibrated"] == kind) == 250
    assert written["trained"]["accuracy_low"] > written["random"]["accuracy_high"]


def test_a_second_run_writes_the_same_bytes(workplace, params):
    linear.main(params)
    first = workplace.written()
    linear.main(params)
    assert workplace.written() == first


def test_the_command_does_the_same(workplace, params):
    linear.main(params)
    first = workplace.written()
    done = workplace.python("-m", "stages.linear")
    assert done.returncode == 0 and "linear: digits, trained encoder: accuracy 0.9" in done.stderr
    assert workplace.written() == first


def test_bad_input_is_one_sentence_and_leaves_nothing_behind(workplace):
    workplace.features["digits", "random"]["test.labels"][5] = 11
    workplace.write()
    done = workplace.python("-m", "stages.linear")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "error: class 11 has no image in the train split, while the test split has" in done.stderr
    )
    assert workplace.written() == {}


def test_a_dataset_without_labels_is_left_out(workplace, params):
    for encoder in ("trained", "random"):
        workplace.features["digits", encoder]["train.labels"][:] = -1
    workplace.write()
    linear.main(params)
    reason = "the train split of dataset 'digits' has no labels."
    assert files.read_json("metrics/linear.json") == {"left_out": reason}
    assert files.read_csv("plots/linear/reliability.csv") == []
    assert list(Path("results/linear").iterdir()) == []
    assert load_probe("trained") is None


def test_it_needs_neither_torch_nor_the_orchestration(workplace):
    heavy = ("torch", "timm", "sklearn", "dvc", "prefect", "datasets", "pyarrow")
    code = (
        "import sys, stages.knn, stages.lowshot, stages.transfer; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = workplace.python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
