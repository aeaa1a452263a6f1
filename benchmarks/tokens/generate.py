"""Makes texts of the kinds that tools return: identifiers, encoded bytes, tables, logs, JSON.

Each maker takes a `random.Random` and returns a text of about 1,000 to 6,000 characters.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

Maker: TypeAlias = Callable[[Random], str]

TEXTS = {
    file.stem: file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("texts/*.txt"))
}
"""Texts written for this benchmark, by language or kind, each of 200 tokens or more."""

_WORDS = sorted({word.strip('.,;"«»').lower() for word in TEXTS["english"].split()} - {""})
_KEYS = [
    *(
        "id",
        "name",
        "status",
        "createdAt",
        "updated_at",
        "user_id",
        "email",
        "total",
        "amount",
        "items",
        "price",
    ),
    *(
        "currency",
        "description",
        "type",
        "data",
        "error",
        "message",
        "url",
        "tags",
        "metadata",
        "enabled",
        "page",
    ),
    *(
        "count",
        "next_cursor",
        "firstName",
        "lastName",
        "address",
        "city",
        "country",
        "zipCode",
        "phone_number",
    ),
    *("latitude", "longitude", "isActive", "roles", "permissions", "version", "timestamp", "duration_ms"),
]
_EMOJI = (
    "😀😂🤣😊😍🥰😎🤔😭😡👍👎🙏👏🔥✨🎉🎂🎁❤💔💯🚀🌍🌞🌧🌈🍕🍔🍎🍣🐶🐱🦊🐼🦄"
    "🌸🌲⚽🏀🎮🎸🚗✈🏠📚📈💡🔒✅❌⚠⏰🧠🦾🪴🫶🥲🫠🧩🪐"
)


def _stamp(random: Random) -> str:
    day = f"20{random.randint(10, 29)}-{random.randint(1, 12):02}-{random.randint(1, 28):02}"
    return f"{day}T{random.randint(0, 23):02}:{random.randint(0, 59):02}:{random.randint(0, 59):02}"


def _sentence(random: Random, low: int = 3, high: int = 14) -> str:
    words = random.choices(_WORDS, k=random.randint(low, high))
    return " ".join(words).capitalize()


def hex_text(random: Random) -> str:
    """Digests, a dump of bytes, or one long run, in lower or upper case."""
    form = random.randrange(4)
    if form == 0:
        text = "\n".join(random.randbytes(random.choice((16, 20, 32))).hex() for _ in range(30))
    elif form == 1:
        text = random.randbytes(800).hex()
    elif form == 2:
        text = "\n".join(random.randbytes(16).hex(" ") for _ in range(40))
    else:
        text = ", ".join(f"0x{random.getrandbits(32):08x}" for _ in range(120))
    return text.upper() if random.random() < 0.2 else text


def base64_text(random: Random) -> str:
    """Random bytes or English in base64, in one line or broken at 76 characters, or URL-safe tokens."""
    form = random.randrange(4)
    if form == 0:
        return base64.b64encode(random.randbytes(1200)).decode()
    if form == 1:
        return base64.encodebytes(random.randbytes(1200)).decode()
    if form == 2:
        return base64.b64encode(_prose(random, 160).encode()).decode()
    return "\n".join(base64.urlsafe_b64encode(random.randbytes(32)).decode().rstrip("=") for _ in range(30))


def _prose(random: Random, words: int) -> str:
    return ". ".join(_sentence(random) for _ in range(words // 8))


def _uuid(random: Random) -> str:
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def uuids(random: Random) -> str:
    """UUIDs in lines, in a list, or with a label each."""
    form = random.randrange(3)
    ids = [_uuid(random) for _ in range(40)]
    if form == 0:
        return "\n".join(ids)
    if form == 1:
        return ", ".join(ids)
    return "\n".join(f"{random.choice(_WORDS)} {value}" for value in ids)


def urls(random: Random) -> str:
    """Web addresses with paths, ids and query strings."""
    lines = []
    for _ in range(40):
        host = (
            f"{random.choice(('www', 'api', 'docs', 'cdn'))}.{random.choice(_WORDS)}{random.choice(_WORDS)}"
        )
        path = "/".join(
            random.choice((random.choice(_WORDS), str(random.randint(1, 9999)), random.randbytes(4).hex()))
            for _ in range(random.randint(1, 5))
        )
        query = "&".join(
            random.choice(_KEYS)
            + "="
            + random.choice((_uuid(random), random.choice(_WORDS), str(random.randint(1, 999_999))))
            for _ in range(random.randint(0, 3))
        )
        domain = random.choice(("com", "org", "io", "example", "co.uk"))
        lines.append(f"https://{host}.{domain}/{path}" + (f"?{query}" if query else ""))
    return "\n".join(lines)


def emoji(random: Random) -> str:
    """Emoji alone, in runs, with skin tones, joiners and flags, or between words."""
    form = random.randrange(4)
    pick = _EMOJI if form % 2 == 0 else "".join(chr(random.randint(0x1F300, 0x1F64F)) for _ in range(80))
    if form < 2:
        return "".join(random.choices(pick, k=260))
    if form == 2:
        tones = [random.choice("👍👋🙏💪👏") + chr(random.randint(0x1F3FB, 0x1F3FF)) for _ in range(40)]
        families = ["👩‍💻", "👨‍👩‍👧", "🏳️‍🌈", "❤️", "🇩🇪", "🇯🇵", "🇧🇷", "☀️"] * 5
        return " ".join(random.sample(tones + families, 80))
    return " ".join(f"{random.choice(_WORDS)} {random.choice(pick)}{random.choice(pick)}" for _ in range(90))


def numbers(random: Random) -> str:
    """Integers, decimals, dates, money: separated by commas, spaces or lines."""
    kinds: list[Callable[[], str]] = [
        lambda: str(random.randint(0, 10 ** random.randint(1, 12))),
        lambda: f"{random.uniform(-1000, 1000):.{random.randint(1, 8)}f}",
        lambda: f"{random.randint(1990, 2030)}-{random.randint(1, 12):02}-{random.randint(1, 28):02}",
        lambda: f"{random.randint(0, 23):02}:{random.randint(0, 59):02}:{random.randint(0, 59):02}",
        lambda: f"${random.randint(1, 10**6):,}.{random.randint(0, 99):02}",
    ]
    chosen = random.sample(kinds, random.randint(1, len(kinds)))
    separator = random.choice((", ", "\n", " ", ",", "\t"))
    return separator.join(random.choice(chosen)() for _ in range(250))


def whitespace(random: Random) -> str:
    """Words far apart: long runs of spaces, tabs or line breaks, as in aligned columns and blank pages."""
    form = random.randrange(3)
    parts = []
    for _ in range(150):
        if form == 0:
            gap = " " * random.randint(2, 60)
        elif form == 1:
            gap = "\n" * random.randint(1, 6) + " " * random.randint(0, 40)
        else:
            gap = random.choice(("\t" * random.randint(1, 6), " " * random.randint(1, 16), "\n\n"))
        parts.append(random.choice(_WORDS) + gap)
    return "".join(parts)


def table(random: Random) -> str:
    """A markdown table, padded to columns or not, or one drawn with box characters."""
    columns = random.randint(3, 7)
    kinds = [random.randrange(4) for _ in range(columns)]

    def cell(kind: int) -> str:
        if kind == 0:
            return str(random.randint(0, 100_000))
        if kind == 1:
            return f"{random.uniform(0, 100):.2f}" + random.choice(("", "%", " ms"))
        if kind == 2:
            return _sentence(random, 1, 5)
        return random.choice(
            ("yes", "no", "`" + random.choice(_KEYS) + "`", "n/a", "**" + random.choice(_WORDS) + "**")
        )

    rows = [[random.choice(_KEYS).replace("_", " ").title() for _ in range(columns)]]
    rows += [[cell(kind) for kind in kinds] for _ in range(random.randint(15, 40))]
    widths = [max(len(row[at]) for row in rows) for at in range(columns)]
    form = random.randrange(5)
    if form == 0:
        lines = [
            "│ " + " │ ".join(value.ljust(widths[at]) for at, value in enumerate(row)) + " │" for row in rows
        ]
        rule = "├" + "┼".join("─" * (width + 2) for width in widths) + "┤"
        lines.insert(0, rule.translate(str.maketrans("├┼┤", "┌┬┐")))
    elif form < 3:
        lines = [
            "| " + " | ".join(value.ljust(widths[at]) for at, value in enumerate(row)) + " |" for row in rows
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    else:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        rule = "|" + random.choice((" --- |", "---|", ":--|")) * columns
    return "\n".join([lines[0], rule, *lines[1:]])


def _value(random: Random, depth: int) -> Any:
    kind = random.randrange(12 if depth < 3 else 9)
    if kind < 3:
        return _sentence(random, 1, 10)
    if kind == 3:
        return random.randint(0, 10 ** random.randint(1, 9))
    if kind == 4:
        return round(random.uniform(-180, 180), random.randint(1, 6))
    if kind == 5:
        return random.choice((True, False, None))
    if kind == 6:
        return _uuid(random)
    if kind == 7:
        return _stamp(random) + "Z"
    if kind == 8:
        return random.choice(
            (
                f"{random.choice(_WORDS)}@example.com",
                f"https://example.com/{random.choice(_WORDS)}",
                random.choice(_WORDS),
            )
        )
    if kind == 9:
        return [_value(random, depth + 1) for _ in range(random.randint(0, 4))]
    return {key: _value(random, depth + 1) for key in random.sample(_KEYS, random.randint(1, 7))}


def json_text(random: Random) -> str:
    """Records as an API returns them: compact, spaced or indented, or one per line."""
    records: list[dict[str, Any]] = []
    keys = random.sample(_KEYS, random.randint(3, 9))
    while len(json.dumps(records)) < 3000:
        records.append({key: _value(random, 1) for key in keys})
    form = random.randrange(4)
    if form == 0:
        return json.dumps(records, separators=(",", ":"))
    if form == 1:
        return json.dumps({"data": records, "has_more": False})
    if form == 2:
        return json.dumps({"items": records}, indent=random.choice((2, 4)))
    return "\n".join(json.dumps(record) for record in records)


def log(random: Random) -> str:
    """Lines of a server's log, or a CSV file."""
    lines = []
    comma = random.random() < 0.4
    for at in range(50):
        stamp = f"{_stamp(random)}.{random.randint(0, 999):03}Z"
        if comma:
            lines.append(
                f"{at},{stamp},{random.choice(_WORDS)},{random.uniform(0, 99):.3f},{_sentence(random, 1, 4)}"
            )
        else:
            level = random.choice(("INFO", "WARN", "ERROR", "DEBUG"))
            lines.append(
                f"{stamp} {level} [{random.choice(_KEYS)}-{random.randint(1, 9)}] {_sentence(random)} "
                f"({random.choice(_KEYS)}={random.randint(1, 5000)}, "
                f"ip=10.{random.randint(0, 255)}.0.{random.randint(1, 254)})"
            )
    return "\n".join(lines)


def marks(random: Random) -> str:
    """Letters under stacks of combining marks."""
    words = _sentence(random, 30, 60)
    return "".join(
        char + "".join(chr(random.randint(0x300, 0x36F)) for _ in range(random.randint(1, 4)))
        for char in words
    )


MAKERS: dict[str, Maker] = {
    "hex": hex_text,
    "base64": base64_text,
    "uuid": uuids,
    "url": urls,
    "emoji": emoji,
    "numbers": numbers,
    "whitespace": whitespace,
    "table": table,
    "json": json_text,
    "log": log,
    "marks": marks,
}
"""Kind of text -> its maker."""
