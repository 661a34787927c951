"""Carillon beside what its users would use instead: the same tasks, servers, cores and sink, in one run."""
