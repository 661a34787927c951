"""The integration tier on other servers than the wheels': `python -m tests.matrix`."""
