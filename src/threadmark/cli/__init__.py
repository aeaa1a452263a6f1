"""The `threadmark` command: talk to an agent that remembers, and look at what is remembered."""

from __future__ import annotations

import sys

INSTALL = "pip install 'threadmark[cli]'"


def main() -> None:
    """Run the command line. Exits with 0, with 1 and one line on an error, or with 2 when used wrongly."""
    try:
        import typer  # noqa: F401 - only whether it is there
    except ImportError:
        sys.stderr.write(
            f"threadmark: the command line needs packages that are not installed; run: {INSTALL}\n"
        )
        raise SystemExit(2) from None
    from ._app import app

    app()


__all__ = ["main"]
