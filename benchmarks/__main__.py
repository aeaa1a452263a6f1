"""`python -m benchmarks [CASE ...] [--json]`."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys

from ._cases import CASES
from ._common import Row


def main() -> int:
    """Run the cases named, or all, and print a line for each row as it comes."""
    as_json = "--json" in sys.argv
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")] or list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        print(f"unknown case {', '.join(unknown)}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    if not as_json:
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
        print(f"{'':<42}{'threadmark':>14}{'raw sqlite3':>14}{'ratio':>8}  bar")
    for name in names:
        for row in asyncio.run(CASES[name]()):
            rows.append(row)
            if not as_json:
                print(_line(row), flush=True)
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=2, ensure_ascii=False))
    return 0


def _line(row: Row) -> str:
    def figure(value: float | None) -> str:
        if value is None:
            return ""
        digits = 0 if value >= 100 or not row.unit else 3
        return f"{value:,.{digits}f} {row.unit}".strip()

    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return f"{row.what:<42}{figure(row.ours):>14}{figure(row.raw):>14}{ratio:>8}  {row.bar}"


if __name__ == "__main__":
    sys.exit(main())
