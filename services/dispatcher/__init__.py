"""The dispatcher: due tasks in, HTTP calls out, one verdict per attempt."""
