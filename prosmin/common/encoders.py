"""The two encoders of every evaluation, their keys in files and their names on pages."""

# Keys in metrics/, plots/ and results/. The second is the same network before training, whose
# number stands beside every number.
TRAINED, UNTRAINED = ENCODERS = ("trained", "random")

# The same two as terminal, report, model card and dashboard call them.
SHOWN = {TRAINED: "trained", UNTRAINED: "untrained"}
# Where training started from given weights, the network before training is at these weights.
CONTINUED = SHOWN | {UNTRAINED: "initial"}
