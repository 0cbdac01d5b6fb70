"""A network for tests, small enough to train in a second."""

from prosmin.models.store import ModelSettings

SMALL = ModelSettings(
    encoder="resnet18",
    image_size=8,
    channels=1,
    mean=(0.3,),
    std=(0.4,),
    hidden_dim=16,
    dim=4,
    cifar_stem=True,
    kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "zero_init_last": False},
)
