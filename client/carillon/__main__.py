"""`carillon` and `python -m carillon`."""

import sys


def main() -> None:
    try:
        from carillon.command import app  # noqa: PLC0415 - the library works without what the command needs
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        sys.exit(f"error: the command needs {missing}: pip install typer rich")
    app(prog_name="carillon")


if __name__ == "__main__":
    main()
