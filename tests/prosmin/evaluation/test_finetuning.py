"""Fine-tuning against a loop by hand, and the protocol: select on val, train again, test once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from prosmin.common.errors import UserError
from prosmin.common.seeds import epoch_order
from prosmin.data.dataset import Split
from prosmin.evaluation.finetuning import (
    FinetuneSettings,
    evaluate_finetuned,
    finetune,
    finetune_lowshot,
    geometry,
    in_memory,
)
from prosmin.evaluation.label_subsets import few_labels
from prosmin.metrics import calibration, classification
from prosmin.models.store import ModelSettings, build_model
from prosmin.views.settings import ViewSettings

STILL = ViewSettings(
    size=8,
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    grayscale=0.0,
    blur=0.0,
    solarize=0.0,
)
SETTINGS = FinetuneSettings(views=STILL, epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def splits():
    """(train, val, test) of digits."""
    pictures, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pictures.reshape(-1, 1, 8, 8) * 15).astype(np.uint8))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    known = torch.from_numpy(labels)
    return [
        Split(images[part], known[part], tuple("0123456789"))
        for part in order[:700].split([300, 150, 250])
    ]


def as_pool(splits):
    """(train, val, test), with the images of train and val in one tensor."""
    train, val, test = splits
    images, labels = (
        torch.cat([getattr(split, name) for split in (train, val)]) for name in ("images", "labels")
    )
    pool = in_memory(Split(images, labels, None))
    places = np.arange(len(pool))
    return pool.part(places[: len(train)]), pool.part(places[len(train) :]), in_memory(test)


@pytest.fixture
def encoder():
    narrow = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "zero_init_last": False}
    settings = ModelSettings(
        "resnet18", 8, 1, (0.3,), (0.38,), 16, 8, cifar_stem=True, kwargs=narrow
    )
    return build_model(settings, seed=3).encoder


def by_hand(encoder, split, epochs, batch, lr, seed):
    """Logits of a classifier trained by AdamW on unchanged images.

    The learning rate is warmed up over a tenth of the steps and falls by half a cosine.
    """
    head = nn.Linear(encoder.num_features, 10)
    head.weight.data.zero_()
    head.bias.data.zero_()
    parameters = [*encoder.parameters(), *head.parameters()]
    decaying = [
        parameter for parameter in parameters if parameter.ndim > 1
    ]  # kernels and matrices; not biases, not normalisation
    plain = [parameter for parameter in parameters if parameter.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        weight_decay=9.0,
    )
    steps = epochs * (len(split) // batch)
    warm = max(1, round(0.1 * steps))
    encoder.train()
    step = 0
    for epoch in range(epochs):
        for rows in epoch_order(len(split), batch, seed, epoch):
            after = (step - warm) / max(steps - warm - 1, 1)
            for group in optimiser.param_groups:
                group["lr"] = (
                    lr * (step + 1) / warm
                    if step < warm
                    else lr * (1 + np.cos(np.pi * min(after, 1))) / 2
                )
            loss = nn.functional.cross_entropy(
                head(encoder(split.images[rows] / 255)), split.labels[rows]
            )
            optimiser.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in parameters))
            for parameter in parameters:
                parameter.grad *= min(1.0, 3.0 / float(norm))
            optimiser.step()
            step += 1
    encoder.eval()
    return lambda images: head(encoder(images / 255)).detach().double().numpy()


def test_it_is_the_loop_written_out_by_hand(splits, encoder):
    train, _, test = splits
    logits = finetune(encoder, in_memory(train), 10, SETTINGS, 0.002, seed=5).logits(
        in_memory(test)
    )
    np.testing.assert_allclose(
        logits, by_hand(encoder, train, 3, 64, 0.002, 5)(test.images), rtol=1e-3, atol=1e-4
    )


def test_the_encoder_that_is_given_stays_as_it_was_and_the_copy_is_trained(splits, encoder):
    train = splits[0]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.requires_grad_(False)
    model = finetune(encoder, in_memory(train), 10, SETTINGS, 0.002, seed=5)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    parts = zip(model.encoder.parameters(), encoder.parameters(), strict=True)
    assert all(not torch.equal(new, old) for new, old in parts)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(splits, encoder):
    train = splits[0]
    moving = replace(SETTINGS, views=replace(STILL, scale=(0.5, 1.0), rotate=20))

    def logits(seed):
        return finetune(encoder, in_memory(train), 10, moving, 0.002, seed).logits(in_memory(train))

    first = logits(0)
    assert np.array_equal(first, logits(0)) and not np.array_equal(first, logits(1))


@pytest.mark.parametrize(("steps", "expected"), [(0, 3), (7, 7), (2, 3)])
def test_a_handful_of_labels_takes_at_least_so_many_steps(
    splits, encoder, monkeypatch, steps, expected
):
    train, taken = splits[0], []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (taken.append(1), step(self))[1])
    few = few_labels(train.labels.numpy(), 2, 0, 0)
    settings = replace(SETTINGS, steps=steps)
    finetune(encoder, in_memory(train).part(few), 10, settings, 0.002, seed=0)
    assert len(taken) == expected


def test_the_protocol_selects_on_val_and_trains_again_on_train_and_val(splits, encoder):
    train, val, test = as_pool(splits)
    settings = replace(SETTINGS, epochs=10)
    result = evaluate_finetuned(encoder, train, val, test, settings, [0.004, 0.0001, 0.002], 100, 0)
    known = [split.labels.numpy() for split in splits]
    seen = {
        lr: finetune(encoder, train, 10, settings, lr, 0).logits(val)
        for lr in (0.0001, 0.002, 0.004)
    }
    best = min(seen, key=lambda lr: classification.nll(seen[lr], known[1]))
    assert best != 0.0001 and result.metrics["lr"] == best
    assert result.metrics["accuracy_val"] == classification.accuracy(seen[best], known[1])
    temperature = calibration.fit_temperature(seen[best], known[1])
    assert result.metrics["temperature"] == pytest.approx(temperature, rel=1e-6)
    images = torch.cat([splits[0].images, splits[1].images])
    both = in_memory(Split(images, torch.from_numpy(np.concatenate(known[:2])), None))
    logits = finetune(encoder, both, 10, settings, best, 0).logits(test)
    assert result.metrics["accuracy"] == classification.accuracy(logits, known[2]) > 0.5
    assert result.metrics["ece"] == calibration.ece(classification.softmax(logits), known[2])
    assert (
        result.metrics["n"] == 250 and result.metrics["accuracy_low"] <= result.metrics["accuracy"]
    )
    kinds = {row[0] for row in result.reliability}
    assert kinds == {"raw", "calibrated"}


def test_the_number_of_epochs_is_chosen_by_held_out_nll_and_each_is_reported(splits, encoder):
    train, val, test = as_pool(splits)
    metrics = evaluate_finetuned(
        encoder, train, val, test, SETTINGS, [0.002], 100, 0, (12, 1)
    ).metrics
    alone = {
        count: evaluate_finetuned(
            encoder, train, val, test, replace(SETTINGS, epochs=count), [0.002], 100, 0
        ).metrics
        for count in (1, 12)
    }
    for count, expected in alone.items():
        ends = ("accuracy", "accuracy_low", "accuracy_high")
        assert [metrics[f"after_{count}_epochs"][name] for name in ends] == [
            expected[name] for name in ends
        ]
    assert metrics["after_12_epochs"]["nll_val"] < metrics["after_1_epochs"]["nll_val"]
    assert metrics["epochs"] == alone[12]["epochs"] == 12 and metrics["nll"] == alone[12]["nll"]


def test_few_labels_are_drawn_as_for_the_probe(splits, encoder):
    pool, test = in_memory(splits[0]), in_memory(splits[2])
    settings = replace(SETTINGS, epochs=1)
    accuracies = finetune_lowshot(encoder, pool, test, 3, 2, settings, 0.002, seed=7)
    for draw, accuracy in enumerate(accuracies):
        rows = few_labels(pool.labels, 3, 7, draw)
        model = finetune(encoder, pool.part(rows), 10, settings, 0.002, 7)
        assert accuracy == classification.accuracy(model.logits(test), test.labels)
    with pytest.raises(UserError, match="labelled images, fewer than the 200 asked for"):
        finetune_lowshot(encoder, pool, test, 200, 1, settings, 0.002, seed=7)


def test_a_classifier_need_not_be_blind_to_colour():
    views = ViewSettings(
        size=8, scale=(0.3, 0.7), flip=0.2, rotate=9, jitter=0.8, hue=0.1, blur=0.5, solarize=0.2
    )
    kept = geometry(views)
    assert (kept.scale, kept.flip, kept.rotate) == ((0.3, 0.7), 0.2, 9)
    assert (kept.jitter, kept.grayscale, kept.blur, kept.solarize) == (0, 0, 0, 0)
