"""The local stack's own tests: with stand-ins for the services, and once with real servers."""
