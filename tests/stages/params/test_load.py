"""Malformed params files: exit code 2, one line per fault, no traceback, nothing left behind."""

import copy
import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosmin.common.errors import UserError
from stages.params.load import load

ROOT = Path(__file__).parents[3]
GIVEN = (ROOT / "params.yaml").read_text()
CONTENT = yaml.safe_load(GIVEN)
ABSENT = object()
HUB = {
    "source": "hub",
    "repo": "someone/birds",
    "revision": "0123456789abcdef0123456789abcdef01234567",
}


def edited(edits: dict[str, Any]) -> str:
    """The repository's params.yaml with values replaced, added or, if ABSENT, removed."""
    content = copy.deepcopy(CONTENT)
    for key, value in edits.items():
        *sections, name = key.split(".")
        section = content
        for step in sections:
            section = section[step]
        if value is ABSENT:
            del section[name]
        else:
            section[name] = value
    return yaml.safe_dump(content, sort_keys=False)


# (edits, what the one line says after "params.yaml: ", in this order)
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
        "'\\x1b[31m' is not a known key; allowed: corrupt, dataset, ",
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
        "pretrain.objective.initial_width is 0.001; it must be at least 0.01",
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
    # misspelt, missing and unknown keys, at each depth
    "extra section": (
        {"liner": {}},
        "liner is not a known key (did you mean 'linear'?); allowed: corrupt, dataset, ",
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
        "; allowed: limit, ",
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
    edits, start, *rest = FAULTS[case]
    (line,) = complaints(edited(edits))
    assert line.startswith(f"params.yaml: {start}")
    assert all(part in line for part in rest)
    assert len(line) < 400


def test_all_faults_are_reported_at_once(complaints):
    lines = complaints(
        edited(
            {
                "dataset": "digit",
                "liner": {},
                "linear": ABSENT,
                "pretrain.lr": -1,
                "ood.sets.svhn": "far",
                "corrupt.severities": [0, 6],
            }
        )
    )
    keys = [line.removeprefix("params.yaml: ").split(" is ")[0] for line in lines]
    assert sorted(keys) == sorted(
        [
            "dataset",
            "liner",
            "linear",
            "pretrain.lr",
            "ood.sets.svhn",
            "corrupt.severities.0",
            "corrupt.severities.1",
        ]
    )


def test_of_very_many_faults_the_first_are_told(complaints):
    lines = complaints(GIVEN + "".join(f"k{place}: 1\n" for place in range(400)))
    assert (
        len(lines) == 21 and lines[-1] == "params.yaml: more is wrong than these; mend them first"
    )
    lines = complaints(edited({"transfer.targets": [f"nowhere{place}" for place in range(400)]}))
    assert len(lines) == 21 and all(len(line) < 400 for line in lines)
    datasets = {f"d{place}": {"source": "builtin", "name": "digits"} for place in range(1001)}
    others = {"ood.sets": {"d2": "far"}, "transfer.targets": [], "finetune.datasets": []}
    (line,) = complaints(edited({"fetch": datasets, "dataset": "d1", **others}))
    assert line.startswith("params.yaml: fetch is {'d0': ") and line.endswith(
        "it must be given at most 1000 entries"
    )


def test_a_number_of_thousands_of_digits_is_one_line(complaints):
    (line,) = complaints(GIVEN.replace("seed: 0 ", f"seed: 0x{'f' * 50_000} "))
    assert (
        line == "params.yaml: seed is a number of about 60207 digits; it must be below 2147483648"
    )


# --- keys that dvc.yaml asks for ------------------------------------------------------------------


def named_by_dvc() -> list[str]:
    """Dotted keys that DVC records for a stage, and those in a template."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        keys = [
            key
            for stage in repo.index.stages
            for dependency in stage.deps
            if isinstance(dependency, ParamsDependency)
            for key in dependency.params
        ]
    keys += re.findall(r"\$\{((?!item|key)[a-z._]+)\}", (ROOT / "dvc.yaml").read_text())
    return sorted(
        key for key in set(keys) if not key.startswith(("fetch.", "ood.sets."))
    )  # those of loops


def test_a_key_that_dvc_asks_for_may_not_be_left_out_and_is_named_with_its_default(tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    keys = named_by_dvc()
    assert {"ood.temperature", "shift.sets", "embed", "finetune.datasets", "seed"} < set(
        keys
    ) and len(keys) > 25
    for key in keys:
        (tmp_path / "params.yaml").write_text(edited({key: ABSENT}))
        with pytest.raises(UserError) as error:
            load(tmp_path / "params.yaml")
        (line,) = str(error.value).splitlines()
        assert re.search(rf"params.yaml: {re.escape(key)} (\(default: .*\) )?is missing; ", line), (
            line
        )


def test_all_keys_that_an_older_file_lacks_are_one_line_with_their_defaults(tmp_path):
    older = edited({"ood.temperature": ABSENT, "ood.k": ABSENT, "shift": ABSENT, "embed": ABSENT})
    (tmp_path / "params.yaml").write_text(older)
    load(tmp_path / "params.yaml")  # such as that of an older commit, which is compared and not run
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with pytest.raises(UserError) as error:
        load(tmp_path / "params.yaml")
    assert str(error.value) == (
        f"{tmp_path}/params.yaml: embed (default: {{batch_size: 512}}), ood.k (default: 10), "
        "ood.temperature (default: 1.0), shift (default: {sets: [], bootstrap: 1000}) are missing; "
        "dvc.yaml asks for them, so write them down"
    )


def test_the_default_that_is_told_is_the_value_that_is_taken(tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for key in ("ood.shrinkage", "finetune", "lowshot"):
        (tmp_path / "params.yaml").write_text(edited({key: ABSENT}))
        with pytest.raises(UserError) as error:
            load(tmp_path / "params.yaml")
        told = yaml.safe_load(re.search(r"\(default: (.*)\) is missing", str(error.value)).group(1))
        (tmp_path / "params.yaml").write_text(edited({key: told}))
        written = load(tmp_path / "params.yaml")
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere/params.yaml").write_text(edited({key: ABSENT}))
        assert written == load(tmp_path / "elsewhere/params.yaml")


def test_a_section_number_as_a_key_is_refused(complaints):
    (line,) = complaints(f"{GIVEN}\n3: 4\n")
    assert line == "params.yaml: 3 is 3; it must be text"


def test_a_long_value_is_cut(complaints):
    (line,) = complaints(edited({"dataset": list(range(1000))}))
    assert line.startswith("params.yaml: dataset is [0, 1, 2, ") and line.endswith(
        "...; it must be text"
    )


def test_the_repository_s_own_file_is_valid_and_complete():
    params = load(ROOT / "params.yaml")
    assert params.dataset in params.fetch
    assert params.pretrain.objective.lambda_ == 1.0


@pytest.mark.parametrize(
    ("written", "read"), [("3e-4", 3e-4), ("3.0e-4", 3e-4), ("1", 1.0), ("'0.002'", 0.002)]
)
def test_numbers_are_numbers_however_yaml_reads_them(tmp_path, written, read):
    (tmp_path / "params.yaml").write_text(GIVEN.replace("  lr: 0.002 ", f"  lr: {written} "))
    assert load(tmp_path / "params.yaml").pretrain.lr == read


@pytest.mark.parametrize(
    "edits",
    [
        {"pretrain.clip_norm": None},
        {"pretrain.weight_decay_end": 0.65},
        {"pretrain.objective.lambda": 1.4},
        {"pretrain.objective.rule": "energy", "pretrain.objective.estimator": "monte_carlo"},
        {"pretrain.objective": {"name": "byol"}},
        {"pretrain.objective": {"name": "dino", "prototypes": 16}},
        {"pretrain.objective": {"name": "prosmin", "regression": 0, "identification": 1}},
        {"pretrain.objective.identification": 1.0, "pretrain.objective.heads": "stopped"},
        {"pretrain.objective": ABSENT},
        {"embed": ABSENT, "lowshot": ABSENT, "report": ABSENT, "pretrain.views": ABSENT},
        {"fetch.own": HUB, "dataset": "own"},
        {"fetch.own": {"source": "parquet", "files": {"train": "birds/*.parquet"}, "label": None}},
        {"lowshot.percent": []},
        {"transfer.targets": []},
    ],
)
def test_what_is_allowed_is_accepted(tmp_path, edits):
    (tmp_path / "params.yaml").write_text(edited(edits))
    load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    [
        edited({"seed": "many", "fetch.digits.source": "disk"}).encode(),
        b"seed: [1\n",
        b"\xff\xfe\0",
    ],
)
def test_a_real_process_leaves_nothing_behind(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "stages.fetch", "digits"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert all(line.startswith("error: params.yaml") for line in done.stderr.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]
