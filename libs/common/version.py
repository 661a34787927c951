"""The one version of everything in this repository; pyproject.toml repeats it and a test holds them together."""

VERSION = "0.1.0"
