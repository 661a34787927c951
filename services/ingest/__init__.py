"""The edge, and the memory: takes tasks in over HTTP, and keeps the history of what happened to them."""
