"""A backup is worth what its restore is worth: the drill."""
