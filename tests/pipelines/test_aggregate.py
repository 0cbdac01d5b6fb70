"""Headline numbers over seeds: mean and interval against SciPy, and runs that do not fit."""

import json
import re

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pipelines import aggregate
from prosmin.common.files import write_json
from stages.common import headlines
from stages.common.headlines import Row
from stages.params.load import load
from tests.pipelines.projects import ROOT, Project

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]
ACCURACIES = {"a": [0.90, 0.93, 0.91], "b": [0.85, 0.90, 0.86]}
ERRORS = {"a": [0.20, 0.21, 0.19], "b": [0.10, 0.12, 0.09]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Branches a-0 to a-2 and b-0 to b-2 with their own metrics; b has another batch size."""
    project = Project(tmp_path_factory.mktemp("aggregate") / "a project", {})
    given = (project.folder / "params.yaml").read_text()
    (project.folder / "metrics").mkdir()
    for group, batch in (("a", 256), ("b", 128)):
        for seed in range(3):
            project.git("checkout", "-q", "-b", f"{group}-{seed}")
            text = re.sub("(?m)^seed: 0", f"seed: {seed}", given).replace(
                "batch_size: 256", f"batch_size: {batch}"
            )
            (project.folder / "params.yaml").write_text(text)
            for name, key, values in (
                ("linear", "accuracy", ACCURACIES),
                ("corrupt", "mce_unnormalised", ERRORS),
            ):
                content = {"trained": {key: values[group][seed]}, "random": {key: 0.5}}
                (project.folder / f"metrics/{name}.json").write_text(json.dumps(content))
            project.commit()
    return project


def cells(said: str, label: str) -> list[str]:
    line = next(row for row in said.splitlines() if row.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_mean_over_seeds_and_the_paired_difference(project):
    said = project.run("pipelines.aggregate", "a-2", "a-0", "a-1", "--against", "b-0", "b-1", "b-2")
    assert (
        said.splitlines()[0]
        == "| | mean | 95 % interval | seeds 0, 1, 2 | untrained | difference | |"
    )
    for label, values, verdict in (
        ("linear probe: accuracy", ACCURACIES, "better"),
        ("corruption: mean error (lower is better)", ERRORS, "worse"),
    ):
        columns = cells(said, label)
        low, high = ttest_1samp(values["a"], 0).confidence_interval(0.95)
        by_seed = " ".join(f"{value:.3f}" for value in values["a"])
        assert columns[1:5] == [
            f"{np.mean(values['a']):.3f}",
            f"[{low:.3f}, {high:.3f}]",
            by_seed,
            "0.500",
        ]
        gain = np.subtract(values["a"], values["b"])
        low, high = ttest_1samp(gain, 0).confidence_interval(0.95)
        apart = verdict if low > 0 or high < 0 else ""
        assert columns[5:7] == [f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]", apart]
    assert "better" in said and "worse" in said


def test_experiments_are_named_by_a_pattern(project):
    project.git("checkout", "-q", "a-0")
    for seed in (0, 1):
        base = project.git("rev-parse", f"a-{seed}~1").strip()
        name = f"refs/exps/{base[:2]}/{base[2:]}/tried-{seed}"
        project.git("update-ref", name, f"a-{seed}")
    said = project.run("pipelines.aggregate", "tried-*")
    assert cells(said, "linear probe: accuracy")[3] == "0.900 0.930"
    assert "no experiment matches 'trued-*' (did you mean 'tried-" in project.run(
        "pipelines.aggregate", "trued-*", expect=2
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a-0", "a-1", "b-2"], "a-0 and b-2 differ in pretrain.batch_size; only seed may differ"),
        (["a-0", "a-1", "workspace"], "a-0 and workspace have the same seed, 0"),
        (["a-0"], "a-0 is one run; an interval over seeds needs at least two"),
        (
            ["a-0", "a-1", "--against", "b-1", "b-2"],
            "the seeds are 0, 1 and, of --against, 1, 2; a paired difference needs the same",
        ),
        (["a-0", "nowhere"], "nowhere cannot be read"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_sentence(project, arguments, sentence):
    project.git("checkout", "-q", "a-0")
    said = project.run("pipelines.aggregate", *arguments, expect=2)
    assert said.startswith(f"error: {sentence}") and len(said.splitlines()) == 1


def test_an_interval_over_seeds_stays_in_the_range_and_has_the_width_that_the_test_images_give():
    def rows(values, reach=None):
        ends = [
            (None, None) if reach is None else (value - reach, min(value + reach, 1.0))
            for value in values
        ]
        return [
            Row("OOD", "auroc", value, *interval, None)
            for value, interval in zip(values, ends, strict=True)
        ]

    spread = [0.97, 0.98, 0.96, 0.82, 0.71]
    low, high = ttest_1samp(spread, 0).confidence_interval(0.95)
    assert high > 1
    assert aggregate.over_seeds(rows(spread)) == pytest.approx((np.mean(spread), low, 1.0))
    mean, low, high = aggregate.over_seeds(rows([1.0, 1.0, 1.0, 1.0], 0.01))
    assert (mean, low, high) == pytest.approx((1.0, 0.995, 1.0))  # four times as many images


def test_better_is_better_whatever_a_dataset_is_called(tmp_path):
    """Datasets whose names contain those of metrics: a gain in error is still worse."""
    given = load(ROOT / "params.yaml")
    sets = given.ood.model_copy(update={"sets": {"receipts": "far"}})
    targets = given.transfer.model_copy(update={"targets": ("pieces", "accuracy")})
    params = given.model_copy(update={"ood": sets, "transfer": targets})
    values = {"linear": ("accuracy", "ece", "ece_calibrated"), "corrupt": ("mce_unnormalised",)}
    values |= {"transfer/pieces": ("accuracy",), "transfer/accuracy": ("accuracy",)}
    groups = []
    for group, start in (("new", 0.6), ("old", 0.2)):
        runs = {}
        for seed in range(3):
            folder = tmp_path / group / str(seed)
            value = start + 0.01 * seed * (1 if group == "new" else 2)
            for name, metrics in values.items():
                write_json(folder / f"{name}.json", {"trained": dict.fromkeys(metrics, value)})
            write_json(folder / "ood/receipts.json", {"trained": {"knn": {"auroc": value}}})
            headline_rows = {row.label: row for row in headlines.rows(params, folder)}
            runs[seed] = aggregate.Run(group, params, headline_rows)
        groups.append(runs)
    said = {line.split(" | ")[0].strip("| "): line for line in list(aggregate.table(*groups))[2:]}
    verdicts = {label: line.strip(" |").rpartition("| ")[2] for label, line in said.items()}
    assert verdicts == {
        "linear probe: accuracy": "better",
        "linear probe: ECE (lower is better)": "worse",
        "linear probe: ECE, calibrated (lower is better)": "worse",
        "OOD, receipts (far), knn: AUROC": "better",
        "corruption: mean error (lower is better)": "worse",
        "transfer to pieces: accuracy": "better",
        "transfer to accuracy: accuracy": "better",
    }
