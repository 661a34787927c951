"""The version of this package: the one of the services it was released with."""

VERSION = "0.1.0"
