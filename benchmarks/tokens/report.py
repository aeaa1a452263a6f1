"""The estimator's error on texts it was not fitted to: `python -m benchmarks.tokens.report CORPUS...`.

See `calibrate` for what CORPUS is. Needs `quicktok-v1`.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from threadmark.memory.tokens import estimate_tokens

from .calibrate import FAMILIES, samples
from .generate import TEXTS

SHORTEST = 200  # tokens; shorter texts vary more than a rate can follow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", nargs="*", type=Path)
    parser.add_argument("--fitted", action="store_true", help="measure the fitting half instead")
    parser.add_argument("--worst", metavar="KIND", help="show the texts of one kind that fare worst")
    options = parser.parse_args()
    quicktok = import_module("quicktok")
    encodings = {family: quicktok.get_encoding(name) for family, name in FAMILIES.items()}
    errors: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    worst: list[tuple[float, str]] = []
    texts = list(samples(options.corpus, held_out=not options.fitted))
    texts += [("own", text) for text in TEXTS.values()]
    spent, size = 0.0, 0
    for kind, text in texts:
        start = time.process_time()
        guess = {family: estimate_tokens(text, family) for family in FAMILIES}
        spent += time.process_time() - start
        size += len(FAMILIES) * len(text.encode("utf-8", "replace"))
        for family, encoding in encodings.items():
            actual = encoding.count(text)
            if actual < SHORTEST:
                continue
            for used in FAMILIES:
                errors[kind][used, family].append(guess[used] / actual - 1)
            if family == "o200k" and kind == options.worst:
                worst.append((guess["o200k"] / actual - 1, text))
    print("estimate as -> real: errors in %, min / median / max; texts outside 15 % and 30 %")
    for kind in sorted(errors):
        row = []
        for used, real in (("o200k", "o200k"), ("cl100k", "cl100k"), ("o200k", "cl100k")):
            found = sorted(errors[kind][used, real])
            middle = found[len(found) // 2]
            beyond = [sum(abs(error) > band for error in found) for band in (0.15, 0.30)]
            row.append(f"{found[0]:+5.0%} {middle:+5.0%} {found[-1]:+5.0%} {beyond[0]:4} {beyond[1]:3}")
        print(f"{kind:11} {len(found):4}  " + "  |  ".join(row))
    print(f"{size / spent / 1e6:.1f} MB/s")
    for error, text in sorted(worst, key=lambda pair: -abs(pair[0]))[:6]:
        print(f"--- {error:+.0%}\n{text[:700]}")


if __name__ == "__main__":
    main()
