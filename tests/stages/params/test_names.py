"""Keys and values that are misspelt, missing, unknown or at odds with each other: one line each."""

import pytest

from tests.stages.params.edits import ABSENT, HUB, check_one_line

FAULTS = {
    # misspelt, missing and unknown keys, at each depth
    "extra section": (
        {"liner": {}},
        "liner is not a known key (did you mean 'linear'?); allowed: audit, calibrate, ",
    ),
    "key, depth two": (
        {"pretrain.epoch": 3},
        "pretrain.epoch is not a known key (did you mean 'epochs'?); allowed: accumulate, ",
    ),
    "key, depth three": (
        {"pretrain.encoder.cifar_stm": True},
        "pretrain.encoder.cifar_stm is not a known key (did you mean 'cifar_stem'?)",
        "; allowed: cifar_stem, kwargs, name",
    ),
    "key, depth four": (
        {"pretrain.views.local.cout": 1},
        "pretrain.views.local.cout is not a known key (did you mean 'count'?)",
        "; allowed: count, scale, size",
    ),
    "key of a dataset": (
        {"fetch.patches.pach": 8},
        "fetch.patches.pach is not a known key of builtin (did you mean 'patch'?)",
        "; allowed: human_labels, limit, ",
    ),
    "key unlike any": (
        {"report.colour": "red"},
        "report.colour is not a known key; allowed: examples",
    ),
    "split as a key": (
        {"fetch.own": {"source": "parquet", "files": {"trian": "x"}}},
        "fetch.own.files.trian is not a known key (did you mean 'train'?)",
        "; allowed: train, val, test",
    ),
    "missing section": ({"linear": ABSENT}, "linear is missing"),
    "missing key": ({"pretrain.epochs": ABSENT}, "pretrain.epochs is missing"),
    "missing source": (
        {"fetch.digits.source": ABSENT},
        "fetch.digits.source is missing; allowed: builtin, folder, hub, parquet",
    ),
    # misspelt and unknown values
    "unknown source": (
        {"fetch.digits.source": "bultin"},
        "fetch.digits.source is 'bultin'; allowed: ",
        "(did you mean 'builtin'?)",
    ),
    "unknown builtin": (
        {"fetch.digits.name": "digit"},
        "fetch.digits.name is 'digit'; allowed: digits, patches (did you mean 'digits'?)",
    ),
    "unknown transform": (
        {"fetch.digits.transform": "rotate"},
        "fetch.digits.transform is 'rotate'; allowed: ",
        "(did you mean 'rotate90'?)",
    ),
    "unknown split": (
        {"pretrain.splits": ["trian"]},
        "pretrain.splits.0 is 'trian'; allowed: train, val, test (did you mean 'train'?)",
    ),
    "unknown corruption": (
        {"corrupt.types": ["fogg"]},
        "corrupt.types.0 is 'fogg'; allowed: ",
        "(did you mean 'fog'?)",
    ),
    "unknown distance": (
        {"ood.sets.patches": "middle"},
        "ood.sets.patches is 'middle'; allowed: near, far",
    ),
    "unknown normalisation": (
        {"pretrain.objective.normalise": "whitten"},
        "pretrain.objective.normalise is 'whitten'; ",
        "'whiten'?)",
    ),
    "unknown objective": (
        {"pretrain.objective.name": "simclear"},
        "pretrain.objective.name is 'simclear'; allowed: barlow, byol, dino, ",
        "(did you mean 'simclr'?)",
    ),
    "unknown rule": (
        {"pretrain.objective.rule": "enrgy"},
        "pretrain.objective.rule is 'enrgy'; it must be one of crps, energy, ",
        "(did you mean 'energy'?)",
    ),
    "key of another objective": (
        {"pretrain.objective": {"name": "simclr", "prototypes": 5}},
        "pretrain.objective.prototypes is not a known key of simclr; allowed: name, temperature",
    ),
    "misspelt key of an objective": (
        {"pretrain.objective": {"name": "dino", "target_temprature": 0.1}},
        "pretrain.objective.target_temprature is not a known key of dino ",
        "(did you mean 'target_temperature'?)",
    ),
    "branch for a commit": (
        {"fetch.own": {**HUB, "revision": "main"}},
        "fetch.own.revision is 'main'; it must be a full commit id: 40 digits",
    ),
    "short commit": (
        {"fetch.own": {**HUB, "revision": "0123456"}},
        "fetch.own.revision is '0123456'; it must be a full commit id: 40 digits",
    ),
    "number as a dataset": (
        {"fetch.1e5": HUB},  # for DVC a number, by which it would name other stages
        "fetch.1e5 is '1e5'; it must be a name of a-z, 0-9 and _, of at most 64, and no number",
    ),
    "octal digits in a dataset": (
        {"fetch.08": HUB},
        "fetch.08 is '08'; it must be a name of a-z, 0-9 and _, of at most 64, and no number",
    ),
    "blank in a name": (
        {"fetch.My birds": HUB},
        "fetch.My birds is 'My birds'; it must be a name of a-z, 0-9 and _",
    ),
    "path as a name": (
        {"fetch.my/birds": HUB},
        "fetch.my/birds is 'my/birds'; it must be a name of a-z, 0-9 and _",
    ),
    # names that must agree
    "dataset not fetched": (
        {"dataset": "digit"},
        "dataset is 'digit'; allowed, as they stand under fetch: digits, ",
        "(did you mean 'digits'?)",
    ),
    "ood set not fetched": (
        {"ood.sets.svhn": "far"},
        "ood.sets.svhn is 'svhn'; allowed, as they stand under fetch: digits, ",
    ),
    "target not fetched": (
        {"transfer.targets": ["patchs"]},
        "transfer.targets.0 is 'patchs'; allowed",
        "(did you mean 'patches'?)",
    ),
    "dataset of uncertainty not fetched": (
        {"uncertainty.datasets": ["digits", "patchs"]},
        "uncertainty.datasets.1 is 'patchs'; allowed",
        "(did you mean 'patches'?)",
    ),
    "dataset of the audit not fetched": (
        {"audit.datasets": ["digits", "patchs"]},
        "audit.datasets.1 is 'patchs'; allowed",
        "(did you mean 'patches'?)",
    ),
    "ood set is trained on": (
        {"ood.sets.digits": "far"},
        "ood.sets.digits is 'digits', the dataset that is trained on",
    ),
    "target is trained on": (
        {"transfer.targets": ["digits"]},
        "transfer.targets.0 is 'digits', the dataset that is trained on",
    ),
    "nothing fetched": ({"fetch": {}}, "fetch is {}; it must be given at least 1 entry"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_one_fault_is_one_line_with_key_value_and_what_is_allowed(case, complaints):
    check_one_line(FAULTS[case], complaints)
