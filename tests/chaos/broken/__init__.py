"""On PYTHONPATH, this folder switches a rule off (`sitecustomize.py`)."""
