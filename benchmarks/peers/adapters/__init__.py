"""Each peer's worker and submitter, as a user of it would write them. They run in an environment of their own."""
