"""What at least two services use: one noun per module, no service imported, nothing re-exported here."""
