"""Chaos: kill -9 everything under load, and count what was lost."""
