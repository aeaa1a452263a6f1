"""`python -m threadmark.cli` is the `threadmark` command."""

from . import main

main()
