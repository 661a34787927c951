"""Code that belongs to no single service."""
