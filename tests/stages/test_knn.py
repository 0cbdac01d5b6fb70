"""The k-NN stage on real features."""

import pytest

from prosmin.common import files
from prosmin.common.errors import ConfigError
from stages import knn


def test_it_writes_metrics_and_the_grid(workplace, params):
    knn.main(params)
    first = workplace.written()
    assert sorted(first) == ["metrics/knn.json", "plots/knn/grid.csv"]
    metrics, grid = files.read_json("metrics/knn.json"), files.read_csv("plots/knn/grid.csv")
    assert len(grid) == 2 * len(params.knn.k) * len(params.knn.temperature)
    for encoder, scored in metrics.items():
        best = max(float(row["accuracy"]) for row in grid if row["encoder"] == encoder)
        chosen = [row for row in grid if row["encoder"] == encoder and int(row["k"]) == scored["k"]]
        assert best in [
            float(row["accuracy"])
            for row in chosen
            if float(row["temperature"]) == scored["temperature"]
        ]
        assert scored["n"] == 250
    assert metrics["trained"]["accuracy_low"] > metrics["random"]["accuracy_high"]
    knn.main(params)
    assert workplace.written() == first


def test_a_k_above_the_training_images_names_the_key(workplace, params):
    settings = params.knn.model_copy(update={"k": (5, 600)})
    with pytest.raises(ConfigError, match="k is 600; there are 500 training images"):
        knn.main(params.model_copy(update={"knn": settings}))
    assert workplace.written() == {}
