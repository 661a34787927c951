"""The stack of compose.yaml in containers: `make compose-test`."""
