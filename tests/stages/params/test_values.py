"""Values of a wrong type or out of range, and lists that are not allowed: one line each.

Longer than 300 lines, because it is one table.
"""

import datetime

import pytest

from tests.stages.params.edits import HUB, check_one_line

PUBLISHED = {"corrupt.reference": "alexnet", "corrupt.source": "folders", "corrupt.path": "c"}
ALEXNET = "reference is 'alexnet', whose errors are of ImageNet-C's published files;"
FAULTS = {
    # wrong type
    "text for a count": (
        {"pretrain.epochs": "many"},
        "pretrain.epochs is 'many'; it must be a whole number",
    ),
    "fraction for a count": (
        {"pretrain.epochs": 2.5},
        "pretrain.epochs is 2.5; it must be a whole number",
    ),
    "truth for a number": (
        {"pretrain.lr": True},
        "pretrain.lr is true; it must be a number, not true or false",
    ),
    "truth for a count": ({"seed": True}, "seed is true; it must be a number, not true or false"),
    "truth for a choice": (
        {"pretrain.channels": True},
        "pretrain.channels is true; it must be a number",
    ),
    "number for a truth": (
        {"pretrain.encoder.cifar_stem": 1},
        "pretrain.encoder.cifar_stem is 1; it must be true or false",
    ),
    "number for text": ({"dataset": 5}, "dataset is 5; it must be text"),
    "nothing for text": ({"dataset": None}, "dataset is null; it must be text"),
    "empty text": (
        {"fetch.own": {"source": "folder", "path": ""}},
        "fetch.own.path is ''; it must be text that is not empty",
    ),
    "number for a list": ({"linear.l2": 1.0}, "linear.l2 is 1.0; it must be a list"),
    "text for a list": (
        {"transfer.targets": "patches"},
        "transfer.targets is 'patches'; it must be a list",
    ),
    "text for a section": (
        {"pretrain.encoder": "resnet18"},
        "pretrain.encoder is 'resnet18'; it must be a section of keys",
    ),
    "list for a section": (
        {"fetch": ["digits"]},
        "fetch is ['digits']; it must be a section of keys",
    ),
    "nothing for a section": ({"knn": None}, "knn is null; it must be a section of keys"),
    "number for a dataset": (
        {"fetch.patches": 3},
        "fetch.patches is 3; it must be a section of keys",
    ),
    "nan": (
        {"pretrain.objective.lambda": float("nan")},
        "pretrain.objective.lambda is nan; it must be a finite number",
    ),
    "infinity": (
        {"pretrain.weight_decay": float("inf")},
        "pretrain.weight_decay is inf; it must be a finite number",
    ),
    # nonsense that would size an allocation, a loop, or overflow
    "point in a count": (
        {"embed.batch_size": 4.0},
        "embed.batch_size is 4.0; it must be a whole number",
    ),
    "views past any memory": (
        {"prediction.views": 2**31},
        "prediction.views is 2147483648; it must be at most 64",
    ),
    "samples past 64 bits": (
        {"pretrain.objective": {"name": "published", "samples": 2**63}},
        "pretrain.objective.samples is 9223372036854775808; it must be at most 1024",
    ),
    "batch past any memory": (
        {"corrupt.batch_size": 10**9},
        "corrupt.batch_size is 1000000000; it must be at most 6",
    ),
    "images past any memory": (
        {"pretrain.image_size": 10**6},
        "pretrain.image_size is 1000000; it must be at most 4",
    ),
    "endless training": (
        {"pretrain.epochs": 10**12},
        "pretrain.epochs is 1000000000000; it must be at most 1000000",
    ),
    "endless bootstrap": (
        {"knn.bootstrap": 10**12},
        "knn.bootstrap is 1000000000000; it must be at most 1000000",
    ),
    "hot neighbours": (
        {"knn.temperature": [1e30]},
        "knn.temperature.0 is 1e+30; it must be at most 10000",
    ),
    "cold neighbours": (
        {"knn.temperature": [1e-300]},
        "knn.temperature.0 is 1e-300; it must be at least 0.0001",
    ),
    "saturation past a float": (
        {"pretrain.views.saturation": 1e308},
        "pretrain.views.saturation is 1e+308; it must be at most 100",
    ),
    "rate of 400 digits": (
        {"pretrain.lr": 10**400},
        "pretrain.lr is a number of about 401 digits; it must be a number",
    ),
    "layers past any memory": (
        {"pretrain.encoder.kwargs": {"channels": [10**9]}},
        "pretrain.encoder.kwargs is {'channels': [1000000000]}; it must hold numbers of at most ",
    ),
    "nan for the encoder": (
        {"pretrain.encoder.kwargs": {"drop_rate": float("nan")}},
        "pretrain.encoder.kwargs is {'drop_rate': nan}; it must hold numbers of at most 65536 ",
        "in size, not nan",
    ),
    "date for the encoder": (
        {"pretrain.encoder.kwargs": {"drop_rate": datetime.date(2026, 1, 1)}},
        "pretrain.encoder.kwargs is {'drop_rate': datetime.date(2026, 1, 1)}; it must hold ",
        "numbers, text, ",
    ),
    "line break at the end": (
        {"corrupt.reference": "digits\n"},
        "corrupt.reference is 'digits\\n'; it must be text on one line",
    ),
    "zero byte in a path": (
        {"corrupt.frost": "a\0b"},
        "corrupt.frost is 'a\\x00b'; it must be text on one line",
    ),
    "line break in a name": (
        {"fetch.pets\n": HUB},
        "fetch.'pets\\n' is 'pets\\n'; it must be a name of a-z, 0-9 and _, of at most 64",
    ),
    "screen codes in a key": (
        {"\x1b[31m": 1},
        "'\\x1b[31m' is not a known key; allowed: audit, calibrate, corrupt, ",
    ),
    # out of range
    "no epochs": ({"pretrain.epochs": 0}, "pretrain.epochs is 0; it must be at least 1"),
    "negative rate": ({"pretrain.lr": -0.1}, "pretrain.lr is -0.1; it must be above 0"),
    "negative seed": ({"seed": -1}, "seed is -1; it must be at least 0"),
    "huge seed": ({"seed": 2**63}, "seed is 9223372036854775808; it must be below 2147483648"),
    "probability above one": (
        {"pretrain.views.flip": 1.1},
        "pretrain.views.flip is 1.1; it must be at most 1",
    ),
    "nothing cropped": (
        {"pretrain.views.scale": [0.0, 1.0]},
        "pretrain.views.scale.0 is 0.0; it must be above 0",
    ),
    "two channels": ({"pretrain.channels": 2}, "pretrain.channels is 2; allowed: 1 or 3"),
    "full shrinkage": ({"ood.shrinkage": 1.0}, "ood.shrinkage is 1.0; it must be below 1"),
    "momentum above one": (
        {"pretrain.target.momentum": [0.9, 1.5]},
        "pretrain.target.momentum.1 is 1.5; it must be at most 1",
    ),
    "one draw": ({"lowshot.draws": 1}, "lowshot.draws is 1; it must be at least 3"),
    "percent above hundred": (
        {"lowshot.percent": [1, 101]},
        "lowshot.percent.1 is 101; it must be at most 100",
    ),
    "files without path": (
        {"corrupt.source": "folders"},
        "corrupt: path is missing; source folders reads the corrupted",
    ),
    "path for nothing": (
        {"corrupt.path": "c"},
        "corrupt: path is 'c'; it is read by source folders or arrays only",
    ),
    "frost for nothing": (
        {"corrupt.source": "arrays", "corrupt.path": "c", "corrupt.frost": "f"},
        "corrupt: frost is 'f'; it is read by source generated only",
    ),
    "a sample of published files": (
        {"corrupt.source": "arrays", "corrupt.path": "c", "corrupt.images": 9},
        "corrupt: images is 9; it is read by source generated only",
    ),
    "alexnet in part": (
        PUBLISHED | {"corrupt.types": ["benchmark"], "corrupt.severities": [1, 5]},
        f"corrupt: {ALEXNET} it goes with source folders, types: [benchmark] and severities 1 to 5",
    ),
    "alexnet on some types": (
        PUBLISHED | {"corrupt.types": ["fog", "snow"]},
        f"corrupt: {ALEXNET}",
    ),
    "alexnet on generated images": (
        {"corrupt.reference": "alexnet", "corrupt.types": ["benchmark"]},
        f"corrupt: {ALEXNET}",
    ),
    "alexnet on CIFAR": (
        PUBLISHED | {"corrupt.types": ["benchmark"], "corrupt.source": "arrays"},
        f"corrupt: {ALEXNET}",
    ),
    "type in its group": ({"corrupt.types": ["extra", "spatter"]}, "corrupt.types is ["),
    "severity six": (
        {"corrupt.severities": [1, 6]},
        "corrupt.severities.1 is 6; it must be at most 5",
    ),
    "negative grid": ({"linear.l2": [-1]}, "linear.l2.0 is -1; it must be at least 0"),
    "no limit": (
        {"fetch.digits.limit": {"train": 0}},
        "fetch.digits.limit.train is 0; it must be at least 1",
    ),
    "lambda zero": (
        {"pretrain.objective.lambda": 0},
        "pretrain.objective.lambda is 0; it must be above 0 and below sqrt(2)",
    ),
    "lambda improper": (
        {"pretrain.objective.lambda": 1.5},
        "pretrain.objective.lambda is 1.5; it must be above 0 and below sqrt(2)",
    ),
    "lambda far out": (
        {"pretrain.objective.lambda": 2.4},
        "pretrain.objective.lambda is 2.4; it must be above 0 and below sqrt(2)",
    ),
    "published lambda": (
        {"pretrain.objective": {"name": "published", "lambda": 2.4}},
        "pretrain.objective.lambda is 2.4; it must be above 0 and below sqrt(2)",
    ),
    "objective without a name": (
        {"pretrain.objective": {"lambda": 1.0}},
        "pretrain.objective.name is missing; allowed: barlow, byol, ",
    ),
    "number for an objective": (
        {"pretrain.objective": 5},
        "pretrain.objective is 5; it must be a section of keys",
    ),
    "truth for a count of an objective": (
        {"pretrain.objective.samples": True},
        "pretrain.objective.samples is true; it must be a number, not true or false",
    ),
    "point in a count of an objective": (
        {"pretrain.objective": {"name": "dino", "prototypes": 64.0}},
        "pretrain.objective.prototypes is 64.0; it must be a whole number, written without a point",
    ),
    "weight of the baselines": (
        {"pretrain.baselines": {"simclr": {"temperature": 0.5}}},
        "pretrain.baselines is not a known key; allowed: ",
    ),
    "bicubic and turned": (
        {"pretrain.views.interpolation": "bicubic"},
        "pretrain.views.interpolation is 'bicubic'; it goes with rotate 0 only, and rotate is 20",
    ),
    "local size twice": (
        {"pretrain.views.local.size": [8, 8]},
        "pretrain.views.local.size is [8, 8]; it must not hold anything twice",
    ),
    "energy in closed form": (
        {"pretrain.objective.rule": "energy"},
        "pretrain.objective.estimator is 'closed_form'; the rule energy has only monte_carlo",
    ),
    "sampled log score": (
        {"pretrain.objective.rule": "log", "pretrain.objective.estimator": "monte_carlo"},
        "pretrain.objective.estimator is 'monte_carlo'; the rule log has only closed_form",
    ),
    "weight of no spread": (
        {"pretrain.objective.rule": "log", "pretrain.objective.lambda": 1.2},
        "pretrain.objective.lambda is 1.2; the rule log has no spread term to weigh; leave it at 1",
    ),
    "no term": (
        {"pretrain.objective.regression": 0},
        "pretrain.objective.regression is 0; it must be above 0 where identification is 0",
    ),
    "no score for the encoder": (
        {"pretrain.objective.heads": "stopped"},
        "pretrain.objective.heads is 'stopped'; nothing would train the encoder; ",
    ),
    "unknown width": (
        {"pretrain.objective.width": "predict"},
        "pretrain.objective.width is 'predict'; allowed: predicted, constant, fixed ",
        "(did you mean 'predicted'?)",
    ),
    "width at no image": (
        {"pretrain.objective.initial_width": 0.001},
        "pretrain.objective.initial_width is 0.001; it must be above 0.1",
    ),
    # lists
    "empty grid": ({"knn.k": []}, "knn.k is []; it must be given at least 1 entry"),
    "no corruption": (
        {"corrupt.types": []},
        "corrupt.types is []; it must be given at least 1 entry",
    ),
    "one end of a range": ({"pretrain.views.scale": [0.4]}, "pretrain.views.scale.1 is missing"),
    "three ends of a range": (
        {"pretrain.target.momentum": [0, 0.5, 1]},
        "pretrain.target.momentum is [0, 0.5, 1]; it must be given at most 2",
    ),
    "scale reversed": (
        {"pretrain.views.scale": [1.0, 0.4]},
        "pretrain.views.scale is [1.0, 0.4]; it must be [low, high] with low <= high",
    ),
    "local scale reversed": (
        {"pretrain.views.local.scale": [0.4, 0.1]},
        "pretrain.views.local.scale is [0.4, 0.1]; it must be [low, high] with low <= high",
    ),
    "log_sigma reversed": (
        {"pretrain.objective.log_sigma": [2, -4]},
        "pretrain.objective.log_sigma is [2, -4]; it must be [low, high] with low < high",
    ),
    "severity twice": (
        {"corrupt.severities": [1, 1]},
        "corrupt.severities is [1, 1]; it must not hold anything twice",
    ),
    "target twice": (
        {"transfer.targets": ["patches"] * 2},
        "transfer.targets is ['patches', 'patches']; it must not hold anything twice",
    ),
    "no labels anywhere": (
        {"lowshot.per_class": [], "lowshot.percent": []},
        "lowshot: per_class and percent must not both be empty",
    ),
    "all held out": (
        {"fetch.digits.val_fraction": 0.5, "fetch.digits.test_fraction": 0.5},
        "fetch.digits: val_fraction and test_fraction must add up to less than 1",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_one_fault_is_one_line_with_key_value_and_what_is_allowed(case, complaints):
    check_one_line(FAULTS[case], complaints)
