"""`make demo`: everything from nothing, and a table to watch it in."""
