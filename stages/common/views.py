"""How the encoder was shown images in pretraining, for the stages that show it images again."""

from collections.abc import Mapping
from typing import Any

from prosmin.common import files
from prosmin.views.settings import ViewSettings
from stages.common import layout


def view_of_training(trained: Mapping[str, Any], size: int) -> ViewSettings:
    """The settings of a global view.

    trained: facts about the training, from ``prosmin.models.store.load_description``.
    size: pixels a side of the view.

    Raises:
        UserError: where the facts hold no settings of views.
    """
    with files.decoding(layout.DESCRIPTION):
        drawn = trained["params"]["views"].items()
        return ViewSettings(size=size, **{key: value for key, value in drawn if key != "local"})
