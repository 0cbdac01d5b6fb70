"""The cells that the tests measure, and the files with their numbers."""

from prosmin.corruptions import apply

TYPES = ("impulse_noise", "contrast", "speckle_noise")  # the last is an extra one
SEVERITIES = (1, 5)


def changed(params, **settings):
    return params.model_copy(update={"corrupt": params.corrupt.model_copy(update=settings)})


def written():
    return [
        open(name, "rb").read() for name in ("metrics/corrupt.json", "plots/corrupt/accuracy.csv")
    ]


def generated(split, name, severity):
    return apply.corrupt(split.images, name, severity, 3)
