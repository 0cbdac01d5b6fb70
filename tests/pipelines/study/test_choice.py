"""Which runs are due next, which point is chosen, and points beyond the edge of a grid."""

import pytest

from pipelines.study.choice import Failed, Trial, Tuning, due
from pipelines.study.file import Study
from pipelines.study.plan import Plan
from tests.pipelines.study.test_file import SMALL, changed


class World:
    """Runs a study without an engine. value: of a run on val; failing: names of methods."""

    def __init__(self, value, failing=(), **keys):
        self.plan = Plan("small", Study.model_validate(changed(**keys)), {})
        self.value, self.failing, self.done, self.batches = value, failing, {}, []

    def outcome(self, run):
        return self.done.get(run.name)

    def run(self):
        while (step := due(self.plan, self.outcome, lambda run: self.allowed(run))).runs:
            self.batches.append([(run.method, run.place) for run in step.runs])
            for run in step.runs:
                failed = (run.method, run.place) in self.failing
                self.done[run.name] = Failed("broke") if failed else self.value(run)
        return step

    def allowed(self, run):
        return run.changes.get("pretrain.lr", 0) < 0.015


def rate(run):
    """The accuracy rises with the learning rate and falls with the temperature."""
    temperature = run.changes.get("pretrain.objective", {}).get("temperature", 1.0)
    return run.changes.get("pretrain.lr", 0.0) - temperature


def test_all_points_then_all_seeds_the_methods_in_turn():
    world = World(rate)
    step = world.run()
    assert world.batches == [
        [(method, f"point-{place}") for place in range(2) for method in ("prosmin", "simclr")],
        [(method, f"seed-{seed}") for seed in range(3) for method in ("prosmin", "simclr")],
    ]
    assert step.tunings["prosmin"].best.settings == {"pretrain.lr": 0.005}
    assert [edge.end for edge in step.tunings["prosmin"].edges()] == ["highest"]
    assert step.tunings["simclr"].best.settings == {"pretrain.objective.temperature": 0.2}
    assert step.final["prosmin"][0].changes["pretrain.lr"] == 0.005


def test_a_study_goes_on_with_the_runs_that_are_missing():
    world = World(rate)
    world.run()
    names = list(world.done)
    for stopped in range(len(names)):
        world.done = dict.fromkeys(names[:stopped], 0.0) | {
            name: value for name, value in world.done.items() if name in names[:stopped]
        }
        world.run()
        assert set(world.done) == set(names)


def test_without_a_grid_nothing_is_chosen():
    methods = {name: {**method, "grid": {}} for name, method in SMALL["methods"].items()}
    world = World(rate, methods=methods)
    step = world.run()
    assert [place for _, place in world.batches[0]] == ["seed-0"] * 2 + ["seed-1"] * 2 + [
        "seed-2"
    ] * 2
    assert step.tunings["prosmin"].edges() == [] and len(world.batches) == 1


def test_a_point_that_failed_is_not_chosen_and_a_method_without_points_is_left_out():
    world = World(rate, failing={("prosmin", "point-1")})
    assert world.run().tunings["prosmin"].best.settings == {"pretrain.lr": 0.002}
    world = World(rate, failing={("prosmin", "point-0"), ("prosmin", "point-1")})
    assert list(world.run().final) == ["simclr"]


def test_a_round_gives_every_method_one_more_point():
    """prosmin goes beyond its edge until 0.015, which is not allowed; simclr refines."""
    choose = {**SMALL["choose"], "extend": 3}
    world = World(rate, choose=choose)
    step = world.run()
    tried = {
        name: [list(trial.settings.values())[0] for trial in tuning.trials]
        for name, tuning in step.tunings.items()
    }
    assert tried["prosmin"] == [0.002, 0.005, 0.0125, 0.00791, 0.00994]
    assert tried["simclr"] == [0.2, 0.5, 0.08, 0.032, 0.0128]
    assert world.batches[1] == [("prosmin", "point-2"), ("simclr", "point-2")]


def tuning(points, value, higher=True):
    """A method whose points have been measured."""
    return Tuning([Trial(point, None, value(point)) for point in points], higher)


GRID = [{"a": a, "b": b} for a in (1, 2, 4) for b in ([0.0, 1.0], [0.9, 1.0])]


def test_edges_are_told_of_numbers_and_of_lists_of_numbers():
    inner = tuning(GRID, lambda p: -abs(p["a"] - 2) + p["b"][0])
    assert [(edge.key, edge.end) for edge in inner.edges()] == [("b", "highest")]
    words = tuning([{"rule": "crps"}, {"rule": "log"}], lambda p: len(p["rule"]))
    assert words.edges() == [] and words.next_settings(lambda settings: True) is None


def test_the_lowest_value_is_best_where_the_metric_says_so():
    assert tuning(GRID, lambda p: p["a"], higher=False).best.settings["a"] == 1


@pytest.mark.parametrize(
    ("values", "best", "expected"),
    [
        ([0.001, 0.01], 0.01, 0.1),
        ([0.001, 0.01], 0.001, 0.0001),
        ([0.0, 0.5, 1.0], 1.0, 1.5),
        ([64, 512], 512, 4096),
        ([32, 64, 128], 64, 91),  # between the best value and its better neighbour, here 128
        ([1.0, 2.0, 4.0], 2.0, 2.83),
    ],
)
def test_the_added_point(values, best, expected):
    points = [{"a": value} for value in values]
    method = tuning(points, lambda p: (p["a"] == best) + 1e-6 * p["a"])
    assert method.next_settings(lambda settings: True) == {"a": pytest.approx(expected)}


def test_whatever_is_not_allowed_beyond_the_edge_lies_before_it():
    method = tuning([{"a": 0.5}, {"a": 0.8}], lambda p: p["a"])
    assert method.next_settings(lambda settings: settings["a"] < 1) == {"a": pytest.approx(0.632)}
