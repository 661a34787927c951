"""The default admin port of each service: one number for its settings, for the probe and for the local stack."""

ADMIN_PORTS = {"ingest": 9101, "scheduler": 9102, "dispatcher": 9103, "mailer": 9104}
