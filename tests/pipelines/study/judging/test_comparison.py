"""Claims judged from the metrics of runs, and the page that shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from pipelines.study import page, record, results
from pipelines.study.choice import Due, Failed, Trial, Tuning
from pipelines.study.file import Study
from pipelines.study.judging.claims import CLAIMS, Claim, Measure, quantities
from pipelines.study.judging.comparison import cost, judge
from pipelines.study.plan import Plan
from pipelines.study.results import Known, Result
from prosmin.common.errors import UserError
from tests.pipelines.study.test_file import changed

SEEDS = range(4)
METHODS = {
    name: {"set": {"pretrain.objective": {"name": name}}, "grid": {}}
    for name in ("prosmin", "simclr", "byol")
}
# accuracy and ECE above those of a seed that all share, by method
LEVELS = {"prosmin": (0.10, 0.05), "simclr": (0.00, 0.00), "byol": (0.09, 0.05)}


def metrics(method, seed, rng):
    """Metrics as the stages write them."""
    higher, error = (level + 0.002 * rng.normal() for level in LEVELS[method])
    accuracy, ece = 0.5 + 0.05 * seed + higher, 0.1 + 0.01 * seed + error

    def both(**values):
        untrained = {name: value / 2 for name, value in values.items()}
        return {"trained": values, "random": untrained}

    files = {
        "linear.json": both(accuracy=accuracy, accuracy_low=0.0, ece=ece, nll_calibrated=1.0),
        "knn.json": both(accuracy=accuracy - 0.02),
        "corrupt.json": both(
            mce_unnormalised=0.5, ece_severity_1=ece, ece_severity_1_low=0.0, ece_severity_5=2 * ece
        ),
        "lowshot.json": {
            "trained": {"per_class_1": {"accuracy": 0.2}, "percent_1": {"accuracy": accuracy}},
            "random": {"per_class_1": {"accuracy": 0.1}, "percent_1": {"accuracy": 0.1}},
        },
    }
    for name, distance in (("near_a", "near"), ("near_b", "near"), ("far", "far")):
        detectors = {"knn": {"auroc": accuracy}, "mahalanobis_normalised": {"auroc": 0.99}}
        files[f"ood/{name}.json"] = {
            "trained": detectors,
            "random": detectors,
            "distance": distance,
        }
    return {f"metrics/{name}": content for name, content in files.items()}


@pytest.fixture
def runs():
    rng = np.random.default_rng(0)
    times = {"fetch@digits": 9.0, "pretrain": 20.0, "embed@digits": 2.0, "linear": 3.0}
    return {
        name: {seed: Result(metrics(name, seed, rng), times) for seed in SEEDS} for name in METHODS
    }


def study(**keys):
    return Study.model_validate(changed(methods=METHODS, seeds=list(SEEDS), **keys))


def test_every_claim_is_judged_by_paired_tests_with_its_own_correction(runs):
    judged, left_out = judge(study(), runs)
    by_name = {claim.name: claim for claim in judged}
    assert list(by_name) == [
        "accuracy", "calibration", "near_ood", "far_ood", "corruption_error",
        "corruption_calibration", "lowshot",
    ]  # fmt: skip
    accuracy = by_name["accuracy"]
    p_values = {}
    for part in accuracy.comparisons:
        path, key = part.quantity.keys[0]
        values = {
            name: [run.value(f"{path}:{key}") for run in runs[name].values()]
            for name in ("prosmin", part.other)
        }
        test = ttest_rel(values["prosmin"], values[part.other])
        assert part.gain.p == pytest.approx(test.pvalue)
        p_values[path, part.other] = test.pvalue
        means = accuracy.means[part.quantity]
        assert means[part.other].interval[0] == pytest.approx(np.mean(values[part.other]))
    smallest = min(accuracy.comparisons, key=lambda part: part.gain.p)
    assert smallest.gain.holm == pytest.approx(min(1.0, 4 * min(p_values.values())))
    assert accuracy.against("simclr") == "shown"
    assert by_name["calibration"].verdict == "contradicted"  # a higher ECE is worse
    assert by_name["calibration"].against("byol") == "not shown"
    assert by_name["corruption_error"].verdict == "not shown"  # no difference at all
    assert [q.label for q in by_name["corruption_calibration"].quantities] == [
        "corrupted: ECE, severity 1", "corrupted: ECE, severity 5",
    ]  # fmt: skip
    (near,) = (q for q in by_name["near_ood"].quantities if q.label == "k-NN distance: AUROC")
    assert [path for path, _ in near.keys] == ["metrics/ood/near_a.json", "metrics/ood/near_b.json"]
    (best,) = (q for q in by_name["far_ood"].quantities if q.best)
    first = runs["byol"][0]
    assert best.of(first.files) == first.value("metrics/ood/far.json:trained.knn.auroc")
    assert "Transfer: no run has metrics/transfer/*.json:trained.accuracy." in left_out
    assert "Far OOD: no run has metrics/ood/*.json:trained.ssd.auroc, far sets." in left_out
    assert accuracy.untrained[accuracy.quantities[0]] == pytest.approx(
        np.mean(
            [run.value("metrics/linear.json:random.accuracy") for run in runs["prosmin"].values()]
        )
    )
    assert accuracy.rank("prosmin") == 1.0 and accuracy.rank("simclr") == 3.0


def test_seeds_are_paired_and_a_method_without_two_of_them_is_named(runs):
    del runs["byol"][0], runs["simclr"][1], runs["simclr"][2], runs["simclr"][3]
    judged, left_out = judge(study(), runs)
    parts = {part.other: part.gain.seeds for part in judged[0].comparisons}
    assert parts == {"byol": 3}
    assert (
        "In-distribution accuracy: k-NN: accuracy is not compared with SimCLR, "
        "because two seeds of both are not there." in left_out
    )


def uncertainty(chosen=None, **scores):
    """Metrics as the stage writes them. chosen: R-AUROC of the score that val has chosen."""
    metrics = {"scores": {name: {"r_auroc": value} for name, value in scores.items()}}
    metrics |= {} if chosen is None else {"r_auroc": chosen}
    return {"metrics/uncertainty/a.json": {"trained": metrics}}


def test_the_best_score_of_others_stands_against_a_score_chosen_beforehand():
    claims = {"uncertainty": CLAIMS["uncertainty"]}
    mine, theirs = uncertainty(0.6, width=0.6, norm=0.9), uncertainty(norm=0.5, distance=0.7)
    (quantity,), left_out = quantities(claims, [mine, theirs])
    assert (quantity.of(mine, tested=True), quantity.of(theirs)) == (0.6, 0.7)
    (line,) = left_out
    assert line.startswith("Uncertainty: no run has ") and line.endswith("human_correlation.")
    none, left_out = quantities(claims, [theirs])
    assert not none and "Uncertainty: no run has metrics/uncertainty/*.json:trained.r_auroc." in (
        left_out
    )


def test_a_metric_without_an_entry_in_the_catalogue_is_one_sentence():
    claim = Claim(title="N", measures=[Measure(metrics="metrics/n.json:trained.new", of="n")])
    with pytest.raises(UserError, match="claims.n: new is no metric of prosmin.metrics.catalogue"):
        quantities({"n": claim}, [{"metrics/n.json": {"trained": {"new": 1.0}}}])


def test_the_cost_is_that_of_the_runs_that_trained(runs):
    restored = Result({}, {"linear": 1.0})
    assert cost([*runs["byol"].values(), restored]) == (20.0, 5.0)
    assert cost([restored]) == (None, None)


@pytest.fixture
def written(runs, tmp_path, monkeypatch):
    """The page of a study with two methods that were tuned, one of which failed."""
    monkeypatch.chdir(tmp_path)
    plan = Plan("small", study(base={"pretrain.epochs": 2}), {"corrupt.images": 9}, "0123abc")
    final = {name: [plan.final_run(name, {}, seed) for seed in SEEDS] for name in METHODS}
    by_name = {
        run.name: runs[name][seed]
        for name, of_method in final.items()
        for seed, run in zip(SEEDS, of_method)
    }
    missing = final["byol"][3].name
    monkeypatch.setattr(results, "read", by_name.get)
    points = [{"pretrain.lr": 0.002}, {"pretrain.lr": 0.005}]
    tunings = {
        name: Tuning(
            [
                Trial(point, plan.choice_run(name, place, point), 0.5 + place / 10)
                for place, point in enumerate(points)
            ]
        )
        for name in METHODS
    }
    tunings["byol"].trials[0] = Trial(points[0], final["byol"][0], Failed("out of memory"))
    references = {name: name for name in by_name if name != missing}
    due = Due(tunings, [], final)

    def write(recorded=None):
        known = Known({}, recorded) if recorded else Known(references, {})
        path = page.write(plan, due, known)
        return [(path.parent / name).read_text() for name in ("index.html", "results.md")]

    return write, missing


def test_the_page_and_its_markdown_say_the_same(written):
    write, missing = written
    html, text = write()
    assert write() == [html, text]
    for content in (html, text):
        assert missing in content and "Transfer: no run has" in content
        assert "Calibration under corruption" in content and "out of memory" not in content
    verdicts = dict(re.findall(r"^\| ([^|]+) \| (shown|not shown|contradicted) \|", text, re.M))
    cards = re.findall(r'<a href="#\w+">([^<]+)</a>\s*<span class="word">. ([a-z ]+)</span>', html)
    assert dict(cards) == verdicts and verdicts["Calibration"] == "contradicted"
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html
    assert html.count("<svg") == len(re.findall(r"(?:shown|contradicted) \|$", text, re.M))
    assert "highest</span> <code>pretrain.lr" in html and "highest `pretrain.lr`" in text
    assert '<span class="flag">failed</span>' in html


def test_recorded_runs_give_the_same_page_and_name_their_commit(written):
    write, _ = written
    html, text = write()
    file = Path("results/study/small/runs.json")
    html_again, text_again = write(record.read([file]))
    said = "recorded before, of commit 0123abc"
    assert said in html_again and "recorded before, on commit 0123abc" in text_again
    lines = [line for line in html_again.splitlines() if said not in line]
    assert lines == html.splitlines()
    assert record.read([file]) == record.read([file, file])


def test_numbers_have_a_true_minus_and_zero_has_no_sign():
    assert [page.signed(value) for value in (0.0126, -0.0004, -0.02)] == [
        "+0.013",
        "0.000",
        "−0.020",
    ]
    assert [page.number(value) for value in (None, -0.5)] == ["–", "−0.500"]
    assert [page.p_value(value) for value in (0.0004, 0.04)] == ["< 0.001", "0.040"]
