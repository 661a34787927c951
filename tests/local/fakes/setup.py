"""A stand-in for the set-up step, which CARILLON_FAKE=setup makes fail."""

import os
import sys

if os.environ.get("CARILLON_FAKE") == "setup":
    sys.exit("queue scheduler.tasks: durable is False, should be True")
