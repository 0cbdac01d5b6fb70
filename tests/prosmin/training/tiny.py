"""A training of seconds: settings, a network of few channels, and looks at a run."""

from dataclasses import replace

import torch
from accelerate import Accelerator

from prosmin.models import store
from prosmin.training import loop
from prosmin.training.settings import TrainSettings
from prosmin.training.watch.monitor import Monitor
from prosmin.views.settings import Views

VIEWS = Views(flip=0.0, grayscale=0.0, solarize=0.0, blur=0.0)
SETTINGS = TrainSettings(
    image_size=8, epochs=2, batch_size=64, lr=2e-3, views=VIEWS, warmup_epochs=1
)


def changed(settings=SETTINGS, **values):
    return replace(settings, **values)


def tiny_model(seed=0, **objective):
    return store.build_model(
        store.ModelSettings(
            encoder="resnet18",
            image_size=8,
            channels=1,
            mean=(0.3,),
            std=(0.37,),
            hidden_dim=32,
            dim=8,
            cifar_stem=True,
            kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
            objective=objective,
        ),
        seed,
    )


def train(digits, settings=SETTINGS, seed=0, monitor=None, model=None, **kept):
    model = model or tiny_model(seed)
    history = loop.pretrain(
        model, digits[0], settings, seed, Accelerator(cpu=True), monitor, **kept
    )
    return model, history


def watching(digits):
    images, labels = digits
    return Monitor(images[:64], labels[:64], images[64:], labels[64:])


def counted(monkeypatch):
    """The steps that are made from now on."""
    step, made = loop.Run.step, []

    def noted(self, *arguments):
        made.append(self.steps_done)
        step(self, *arguments)

    monkeypatch.setattr(loop.Run, "step", noted)
    return made


def equal(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
