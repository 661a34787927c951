"""Benchmarks: what the whole pipeline does under load, measured from outside."""
