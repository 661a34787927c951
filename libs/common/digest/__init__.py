"""The digest as it is read: what failed, counted by cause, and the mail that says so. Pure."""
