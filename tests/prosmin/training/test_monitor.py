from prosmin.training import monitor


def test_collapse_is_said_in_the_log_with_its_likely_cause(caplog):
    healthy = {"rankme": 30.0, "feature_std": 0.9, "sigma_clamped": 0.0}
    monitor.warn_of_collapse(healthy, 10)
    assert not caplog.records
    monitor.warn_of_collapse({**healthy, "rankme": 1.2}, 10)
    monitor.warn_of_collapse({**healthy, "sigma_clamped": 0.9}, 10)
    assert (
        "normalise the targets" in caplog.text
        and "widen pretrain.objective.log_sigma" in caplog.text
    )
