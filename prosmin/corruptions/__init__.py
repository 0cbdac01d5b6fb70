"""Common corruptions of images at five severities (Hendrycks & Dietterich, ICLR 2019).

Source: "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", arXiv
1903.12261. This module holds the names of the types and needs no torch; ``apply`` corrupts images.
"""

SEVERITIES = (1, 2, 3, 4, 5)
BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 types of the benchmark."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Its 4 extra types, meant for validation."""
