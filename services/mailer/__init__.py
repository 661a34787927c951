"""The digest: collects what failed, on a schedule, and mails it to a person."""
