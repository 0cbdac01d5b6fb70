"""The transfer stage: the linear probe on another dataset."""

import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.evaluation.linear_probe import evaluate_probe
from stages import transfer
from stages.common.features import load_labelled


def test_it_writes_the_probe_of_the_target(workplace, params):
    transfer.main(params, "patches")
    assert sorted(workplace.written()) == [
        "metrics/transfer/patches.json",
        "plots/transfer/patches.csv",
    ]
    metrics = files.read_json("metrics/transfer/patches.json")
    for encoder in ("trained", "random"):
        settings = params.transfer.l2, params.transfer.bootstrap, params.seed
        again = evaluate_probe(*load_labelled("patches", encoder, params.seed), *settings).metrics
        assert metrics[encoder] == {name: files.rounded(value) for name, value in again.items()}
    assert "accuracy_top5" not in metrics["trained"]  # two classes


@pytest.mark.parametrize(
    ("target", "message"),
    [((), "not ''"), (["patchs"], "did you mean 'patches'"), (["digits"], "not 'digits'")],
)
def test_it_needs_one_of_the_targets(workplace, params, target, message):
    with pytest.raises(UserError, match=f"transfer needs one of transfer.targets, .*{message}"):
        transfer.main(params, *target)
    assert workplace.written() == {}
