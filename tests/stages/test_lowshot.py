"""The low-shot stage on real features."""

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from stages import lowshot


def test_it_writes_the_mean_over_draws_of_each_setting(workplace, params):
    settings = params.lowshot.model_copy(update={"per_class": (1, 5, 10), "percent": (1, 10)})
    params = params.model_copy(update={"lowshot": settings})
    lowshot.main(params)
    first = workplace.written()
    assert sorted(first) == ["metrics/lowshot.json", "plots/lowshot/accuracy.csv"]
    metrics, rows = (
        files.read_json("metrics/lowshot.json"),
        files.read_csv("plots/lowshot/accuracy.csv"),
    )
    for encoder in ("trained", "random"):
        labels = {name: scored["labels"] for name, scored in metrics[encoder].items()}
        # 650 labels of 10 classes: 1 % is 0.65 per class, 10 % is 6.5, which rounds to even.
        assert labels == {
            "per_class_1": 10,
            "per_class_5": 50,
            "per_class_10": 100,
            "percent_1": 10,
            "percent_10": 60,
        }
        for name, scored in metrics[encoder].items():
            drawn = [row for row in rows if row["encoder"] == encoder and row["setting"] == name]
            accuracies = [float(row["accuracy"]) for row in drawn]
            assert len(drawn) == scored["draws"] == params.lowshot.draws
            assert scored["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
            assert scored["accuracy_low"] <= scored["accuracy"] <= scored["accuracy_high"]
    assert (
        metrics["trained"]["per_class_10"]["accuracy_low"]
        > metrics["random"]["per_class_10"]["accuracy_high"]
    )
    lowshot.main(params)
    assert workplace.written() == first


def test_a_class_with_too_few_images_is_named_with_the_setting(workplace, params):
    settings = params.lowshot.model_copy(update={"per_class": (80,)})
    with pytest.raises(
        UserError,
        match=r"lowshot, per_class_80: class \d has \d\d labelled images, fewer than the 80",
    ):
        lowshot.main(params.model_copy(update={"lowshot": settings}))
    assert workplace.written() == {}
