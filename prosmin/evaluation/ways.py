"""The ways of calibration by name, for everybody who shows them."""

WAYS = {
    "raw": "as the probe gives them",
    "temperature": "one temperature, fitted on val",
    "temperature_shifted": "one temperature, fitted on val and corrupted val",
    "temperature_distance": "a temperature that depends on the distance of the image from the "
    "training images, fitted on val and corrupted val",
    "laplace": "last-layer Laplace, its prior chosen on val",
    "laplace_shifted": "last-layer Laplace, its prior chosen on val and corrupted val",
}
