"""`python -m services.dispatcher.secret PROJECT`: the secret that the project's receivers verify our calls with."""

import argparse
import sys

from libs.common.lifecycle import EXIT_SETTINGS
from libs.common.settings import SettingsError, SigningSettings, load
from libs.common.signing import secret, whsec


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.dispatcher.secret", description=__doc__)
    parser.add_argument("project")
    parser.add_argument("--version", type=int, default=1, help="grows by one with each rotation (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        settings = load(SigningSettings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    print(whsec(secret(settings.signing_master_key.get_secret_value(), options.project, options.version)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
