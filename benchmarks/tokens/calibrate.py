"""Fits the estimator's prices to real tokenizers: `python -m benchmarks.tokens.calibrate CORPUS...`.

Each CORPUS is a folder of folders: one per kind of text (`en`, `code`, `json`, `ja`, ...), holding UTF-8
files of any licence; they are read, never stored. Generated texts are added. Half of the files, chosen by a
hash of the name, is for fitting; the other half is what `report` measures. Needs `quicktok-v1` and `numpy`.

Each token is charged to the piece in which it starts, so that prices sum to the true count. The price of a
kind and length is the mean over the corpus, each kind of text weighing as `WEIGHTS` says.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from threadmark.memory.tokens_signature import CHUNK, PIECE, SCRIPTS, SYMBOLS, describe, lead, signature

from .generate import MAKERS, TEXTS

FAMILIES = {"o200k": "o200k_base", "cl100k": "cl100k_base"}
WEIGHTS: dict[str, float] = defaultdict(
    lambda: 1.0, en=10, code=14, json=6, de=2, ru=4, zh=2, ko=2, ja=2, hi=2, ar=2, **{"zh-tw": 1.5},
    **dict.fromkeys(("fr", "es", "it", "nl", "pt", "cs", "pl", "tr", "id", "vi"), 0.4),
)  # fmt: skip
TILT: dict[str, dict[str, float]] = {
    "o200k": {**dict.fromkeys("rkxyz", 1.08), **dict.fromkeys("MTV", 1.12)},
}
"""Prices raised on purpose: o200k is the default for tokenizers that are not known, and Cyrillic, Korean,
Chinese, Japanese and emoji cost 20 to 70 % more in cl100k. For budgets too much is the smaller error."""
CAMEL: dict[str, float] = {"cl100k": 0.8}
"""Factor for the later words of camelCase names, which cl100k does not cut apart: where there are many, they
are common ones, and cost half of the mean."""
LONGEST: dict[str, int] = {
    "a": 14,
    "c": 14,
    "A": 10,
    "X": 10,
    "e": 14,
    ".": 8,
    ";": 8,
    " ": 2,
    "\n": 2,
    "\t": 2,
}
NOT_ASCII = frozenset(("ar", "bn", "el", "fa", "he", "hi", "ja", "ko", "ru", "ta", "th", "uk", "zh", "zh-tw"))
"""Kinds of which texts that are mostly ASCII, such as untranslated pages, are left out."""
CHUNK_CHARS = 4000
CHUNKS_PER_FILE = 3

Sample = tuple[str, str]


def samples(folders: list[Path], held_out: bool) -> Iterator[Sample]:
    """Pairs of kind and text, of the fitting half or of the held-out half."""
    for folder in folders:
        for file in sorted(folder.glob("*/*")):
            if (zlib.crc32(file.name.encode()) & 1 == 1) != held_out:
                continue
            text = file.read_text(encoding="utf-8", errors="ignore")
            starts = range(0, max(1, len(text) - CHUNK_CHARS // 2), CHUNK_CHARS)
            for start in Random(file.name).sample(list(starts), min(len(starts), CHUNKS_PER_FILE)):
                chunk = text[start : start + CHUNK_CHARS]
                if file.parent.name not in NOT_ASCII or sum(char > "\x7f" for char in chunk) > len(chunk) / 3:
                    yield file.parent.name, chunk
    for kind, maker in MAKERS.items():
        for at in range(60):
            yield kind, maker(Random(f"{kind} {at} {held_out}"))


def spread(text: str, encoding: Any, numpy: Any) -> list[tuple[str, int, int]]:
    """For each piece of `text`: its kind, its length, and how many tokens start in it."""
    pieces, kinds = [], []
    for chunk in CHUNK.findall(signature(text)):
        cut = PIECE.findall(chunk)
        pieces += cut
        around = zip([" ", *cut], cut, [*cut[1:], " "], strict=False)
        kinds += [describe(piece, lead(before, after)) for before, piece, after in around]
    widths = numpy.array([len(char.encode("utf-8", "replace")) for char in text])
    byte_at = numpy.concatenate(([0], numpy.cumsum(widths)))
    ends = byte_at[numpy.cumsum([len(piece) for piece in pieces])]
    sizes = [len(encoding.decode_single_token_bytes(token)) for token in encoding.encode_ordinary(text)]
    starts = numpy.concatenate(([0], numpy.cumsum(sizes)[:-1]))
    counts = numpy.bincount(numpy.searchsorted(ends, starts, side="right"), minlength=len(pieces))
    return [(kind, length, int(count)) for (kind, length), count in zip(kinds, counts, strict=True)]


def fit(folders: list[Path], family: str) -> dict[str, tuple[int, ...]]:
    """Prices of a family: kind -> thousandths of a token for length 1, 2, ..., and last for each one more."""
    import numpy

    quicktok = import_module("quicktok")

    encoding = quicktok.get_encoding(FAMILIES[family])
    by_kind: dict[str, list[list[tuple[str, int, int]]]] = defaultdict(list)
    for kind, text in samples(folders, held_out=False):
        by_kind[kind].append(spread(text, encoding, numpy))
    cells: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    for kind, spreads in by_kind.items():
        weight = WEIGHTS[kind] / sum(count for pieces in spreads for _, _, count in pieces) * 1e5
        for pieces in spreads:
            for piece_kind, length, count in pieces:
                cell = cells[piece_kind][length]
                cell[0] += weight
                cell[1] += weight * count
                cell[2] += 1
    slopes = {group: slope(group, cells, numpy) for group in {group_of(kind) for kind in cells}}
    found = {kind: prices(kind, cells[kind], slopes[group_of(kind)], numpy) for kind in cells if kind != "0"}
    for shape in "acAXe" + SCRIPTS:
        for mark in "-_.," if shape in SCRIPTS else "-_.,*+":
            # a kind that the corpus lacks is priced as its nearest relative, or two tokens a letter
            found.setdefault(shape + mark, found.get(shape + "-", (2.0, 2.0)))
    for symbol in SYMBOLS:
        found.setdefault(symbol, (2.0, 2.0))
    tilt, camel = TILT.get(family, {}), CAMEL.get(family, 1)
    return {
        kind: tuple(round(1000 * cost * tilt.get(kind[0], 1)) for cost in found[kind])
        if kind[1:] != "+"
        else (*(round(1000 * cost * camel) for cost in found[kind][:-1]), round(1000 * found[kind][-1]))
        for kind in sorted(found)
    }


def group_of(kind: str) -> str:
    """The kinds that share a slope, because one more character can turn a long piece of one into another."""
    first = kind[0]
    return "a" if first in "acAXe" else "." if first in ".;" else "\n" if first in " \t\n" else first


def longest_of(kind: str) -> int:
    """Up to which length a kind has a price for each length."""
    return LONGEST.get(kind[0], 10 if kind[0] in SCRIPTS else 4)


def line(cells: dict[int, list[float]], numpy: Any) -> tuple[float, float]:
    """Slope and height of the line through the means of cells, weighted."""
    if len(cells) < 2:
        ((length, (weight, total, _)),) = cells.items()
        return total / weight / length, 0.0
    weights = numpy.array([cell[0] for cell in cells.values()])
    means = numpy.array([cell[1] for cell in cells.values()]) / weights
    slope, base = numpy.polyfit(list(cells), means, 1, w=numpy.sqrt(weights))
    return max(0.02, float(slope)), float(base)


def slope(group: str, cells: dict[str, dict[int, list[float]]], numpy: Any) -> float:
    """What a character more costs in long pieces of a group of kinds."""
    merged: dict[int, list[float]] = {}
    for kind, found in cells.items():
        for length, cell in found.items():
            if group_of(kind) == group and length <= 64:
                merged[length] = [a + b for a, b in zip(cell, merged.get(length, [0.0] * 3), strict=True)]
    long = {length: cell for length, cell in merged.items() if length >= longest_of(group) - 2}
    return line(long if sum(cell[2] for cell in long.values()) > 60 and len(long) > 4 else merged, numpy)[0]


def prices(kind: str, cells: dict[int, list[float]], slope: float, numpy: Any) -> tuple[float, ...]:
    """One kind's prices: means where there are enough pieces, else drawn to the line through all of them."""
    rise, base = line({length: cell for length, cell in cells.items() if length <= 64} or cells, numpy)
    costs: list[float] = []
    for length in range(1, longest_of(kind) + 1):
        guess = max(0.05, base + rise * length)
        weight, total, seen = cells.get(length, [1.0, guess, 0.0])
        cost = (total / weight * seen + guess * 20) / (seen + 20)
        costs.append(max([cost, *costs[-1:]]))  # a longer piece never costs less
    return (*costs, slope)


def pin(path: Path) -> None:
    """Write the project's own texts, and one of each generated kind, with their exact counts, as JSON."""
    quicktok = import_module("quicktok")

    made = {kind: maker(Random(f"{kind} pinned"))[:1500] for kind, maker in MAKERS.items()}
    pinned = {
        name: {
            "text": text,
            **{family: quicktok.get_encoding(encoding).count(text) for family, encoding in FAMILIES.items()},
        }
        for name, text in {**TEXTS, **made}.items()
    }
    path.write_text(json.dumps(pinned, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="file to write; printed when not given")
    parser.add_argument("--pin", type=Path, help="only write exact counts of our own texts to this file")
    options = parser.parse_args()
    if options.pin:
        pin(options.pin)
        return
    lines = [
        '"""Prices of the pieces of text, by tokenizer family; written by `benchmarks.tokens.calibrate`.',
        "",
        "Kind of piece (see `tokens_signature.describe`) -> thousandths of a token for a piece of length",
        "1, 2, ...; the last number is for each one more.",
        '"""',
        "",
        "# fmt: off",
        "PRICES: dict[str, dict[str, tuple[int, ...]]] = {",
    ]
    for family in FAMILIES:
        lines.append(f'    "{family}": {{')
        for kind, row in fit(options.corpus, family).items():
            lines.append(f"        {json.dumps(kind)}: ({', '.join(f'{cost}' for cost in row)}),")
        lines.append("    },")
    lines += ["}", ""]
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
