"""Exact round trips: what goes in comes out, to the byte and to the type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sized
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ..._errors import ValidationError
from ..._types import (
    DataPart,
    ErrorPart,
    FilePart,
    Message,
    Part,
    ReasoningPart,
    Speaker,
    StepPart,
    TextPart,
    ToolPart,
)
from ...stores.base import MessageQuery, Store, ThreadQuery, TurnQuery
from ._dump import dump
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour

TEXTS = [
    "",
    " ",
    "  leading and trailing  ",
    "trailing newlines\n\n",
    "\r\n windows \r old mac \t tab \v \f",
    "NUL \x00 inside, and \x00",
    "\x00",
    "".join([chr(n) for n in range(256)]),
    "größe ÅÄÖ ñ 日本語 العربية עברית ไทย",
    "\u00e9 e\u0301 \ufb01 \u212b \u00c5",  # composed, decomposed and compatibility forms stay apart
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 \U0010ffff",
    "\ud800 lone high, lone low \udfff, swapped \udc00\ud800, with an emoji 🙂",
    "\ufeff byte order mark \u200b zero width \u2028 line separator \u202e override",
    "\ufffe\uffff\U0001fffe noncharacters",
    'it\'s "quoted" `code` \\ \\\\ \\n \\u0041 % _ * ? ; -- /* $1 :name {x} <b>&amp;</b> %s',
    "<working_memory>kept as it is</working_memory> <system-reminder>so is this</system-reminder>",
    "[]",
    "null",
    "1.0",
    "a" * 70_000,
]

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    0.1,
    1e308,
    5e-324,
    -1.7976931348623157e308,
    1e16,
    123456789012345680.0,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**100,
    "",
    "1",
    "true",
    "2026-01-01T00:00:00Z",
    [],
    {},
    [[], {}, [None], [[[]]]],
    {"a": {"b": {"c": [1, 1.0, "1", True, None, {"d": []}]}}},
    {"": "empty key", " ": "space", "a.b": 1, "$set": 2, "$.k": 3, "__proto__": 4, "é": 5, "🙂": 6, "'\"": 7},
    {"A": 1, "a": 2, "0": "zero", "type": "text", "id": None},
    ["\x00", "\ud800", "🙂", " "],
    list(range(500)),
]

PARTS: list[Part] = [
    TextPart("plain"),
    TextPart("with provider", provider={"id": "msg_1", "nested": {"x": [1, None]}}),
    TextPart("empty provider", provider={}),
    ReasoningPart("thinking"),
    ReasoningPart("", signature="c2ln", provider={"encrypted": "…"}),
    FilePart(media_type="application/octet-stream", data=bytes(range(256)) * 3, name="größe 🙂.bin"),
    FilePart(media_type="text/plain", data=b""),
    FilePart(media_type="image/png", url="https://example.com/a?b=c&d=%20", provider={"detail": "high"}),
    ToolPart(tool_call_id="c1", tool_name="search"),
    ToolPart(tool_call_id="c2", tool_name="search", args={"q": "x", "n": 2**70, "f": 1.0}, state="call"),
    ToolPart(tool_call_id="c3", tool_name="s", args="{not json", state="error", error="no JSON\n\x00"),
    ToolPart(tool_call_id="c4", tool_name="s", args={"a": None}, state="result", output=None),
    ToolPart(tool_call_id="c5", tool_name="s", args=[1, 2], state="result", output=[{"a": 1}, False, ""]),
    ToolPart(tool_call_id="c6", tool_name="s", args=None, state="result", output=0),
    ToolPart(tool_call_id="c7", tool_name="s", state="result", output=False, provider_executed=True),
    ToolPart(tool_call_id="c8", tool_name="s", state="denied", error="", provider={"p": 1}),
    ToolPart(tool_call_id="c9", tool_name="s", state="interrupted", error="stopped"),
    StepPart(),
    StepPart(model="m", finish_reason="tool-calls", usage={"input_tokens": 3, "x": 0}, provider={"r": "1"}),
    ErrorPart("RateLimitError", "slow down\n"),
    DataPart("weather"),
    DataPart("weather", {"degrees": -0.0, "wind": [1, 2.5]}),
    DataPart("flag", False),
]


async def stored(h: Harness, store: Store, message: Message) -> Message:
    """Save `message` in a thread of its own, and check that every way of reading gives the same back."""
    thread = h.new_id()
    turn = h.turn(thread, [message])
    receipt = await store.write_turn("ann", turn)
    expected = message.replace(
        seq=1, thread_id=thread, created_at=message.created_at or turn.now, metadata=message.metadata
    )
    same((expected,), receipt.messages, "the receipt holds the message as stored")
    page = await store.list_messages("ann", MessageQuery(thread_id=thread))
    same((expected,), page.messages, "the message as listed")
    same([expected], await store.get_messages("ann", [message.id]), "the message by its id")
    state = await store.read_turn("ann", TurnQuery(thread_id=thread, known_ids=(message.id,)))
    same((expected,), state.history, "the message in a turn's history")
    same({message.id: expected}, state.known, "the message among the known ones")
    return expected


@behaviour("values: text comes back byte for byte")
async def texts(h: Harness) -> None:
    store = await h.fresh()
    for text in TEXTS:
        await stored(h, store, h.message(text))
    await stored(h, store, h.message(parts=[TextPart(text) for text in TEXTS]))


@behaviour("values: five megabytes of text come back")
async def long_text(h: Harness) -> None:
    store = await h.fresh()
    text = "".join([f"{n} größe 🙂\n" for n in range(280_000)])
    holds(len(text.encode()) > 5_000_000, "the text is not as long as promised")
    await stored(h, store, h.message(text))


@behaviour("values: every kind of part comes back with every field")
async def parts(h: Harness) -> None:
    store = await h.fresh()
    for part in PARTS:
        await stored(h, store, h.message(role="assistant", parts=[part]))
    await stored(h, store, h.message(role="assistant", parts=PARTS))
    await stored(h, store, h.message(role="assistant", parts=[]))


@behaviour("values: metadata keeps value and type, nested and at any size")
async def metadata(h: Harness) -> None:
    store = await h.fresh()
    every = {f"k{n}": value for n, value in enumerate(VALUES)}
    await stored(h, store, h.message(metadata=every))
    await stored(h, store, h.message(metadata={"": {"": [""]}, "$set": 1, "a.b": 2}))
    thread = await store.create_thread("ann", h.thread("t1", metadata=every))
    same(every, thread.metadata, "a thread's metadata as returned")
    same(thread, await store.get_thread("ann", "t1"), "a thread's metadata as stored")
    for n, value in enumerate(VALUES):
        changed = await store.update_thread("ann", "t1", h.change(metadata={"x": value}))
        same(value, changed.metadata["x"], f"value {n} put in by a change")
    run = h.run("r1", state={"values": VALUES})
    receipt = await store.write_turn("ann", h.turn("t1", run=run, metadata={"last": VALUES}))
    same({**every, "x": VALUES[-1], "last": VALUES}, receipt.thread.metadata, "metadata merged by a turn")
    found = await store.get_run("ann", "r1")
    same({"values": VALUES}, found and found.state, "a run's state")


@behaviour("values: metadata is refused when it is written, if it could not be read back or listed by")
async def deep_metadata(h: Harness) -> None:
    store = await h.fresh()
    for depth in (50, 99, 500, 1500, 6000):
        value: Any = 1
        for _ in range(depth):
            value = [value]
        thread = f"deep{depth}"
        message = h.message(metadata={"k": 1, "deep": value})
        try:
            await store.write_turn("ann", h.turn(thread, [message]))
        except ValidationError:
            holds(depth >= 100, f"metadata {depth} levels deep must be stored")
            same(None, await store.get_thread("ann", thread), "what is refused leaves nothing")
            continue
        page = await store.list_messages("ann", MessageQuery(thread_id=thread, metadata={"k": 1}))
        same([message.id], [found.id for found in page], f"stored {depth} levels deep, so it must list")
    for bad in ({"k": float("nan")}, {"k": float("inf")}, {"k": object()}, {"k": b"bytes"}, {"k": {1, 2}}):
        turn = h.turn("t1", [h.message(), h.message(metadata=bad)])
        await refuses(ValidationError, store.write_turn("ann", turn), f"message metadata {bad!r}")
        await refuses(
            ValidationError,
            store.create_thread("ann", h.thread("t1", metadata=bad)),
            f"thread metadata {bad!r}",
        )
    same(None, await store.get_thread("ann", "t1"), "what is refused leaves nothing")


@behaviour("values: speakers come back, and one without a name is not nobody")
async def speakers(h: Harness) -> None:
    store = await h.fresh()
    for speaker in (
        Speaker(id="u1"),
        Speaker(id="u1", name="Zoë 🙂", role="reviewer"),
        Speaker(id="u1", name="", role=""),
        None,
    ):
        await stored(h, store, h.message(speaker=speaker))


IDS = [
    "a",
    "A",
    "a ",
    " a",
    "a\n",
    "0",
    "00",
    "1e3",
    "null",
    "a'b\"c`d\\e",
    "%",
    "_",
    "a%",
    "../../etc/passwd",
    "a/b:c#d?e=f&g|h",
    "a\tb",
    "\u00e9",
    "e\u0301",
    "日本",
    "🙂",
    "\U0010ffff",
    "$where",
    "x" * 512,
    "x" * 511 + "y",
    "é" * 256,
]


@behaviour("values: ids are exact: case, spaces, accents and wildcards tell them apart")
async def ids(h: Harness) -> None:
    store = await h.fresh()
    for n, id_ in enumerate(IDS):
        turn = h.turn(id_, [h.message(f"text {n}", id=id_)], title=f"title {n}", run=h.run(id_))
        await store.write_turn("ann", turn)
        await store.write_turn(id_, h.turn("t1", [h.message(f"owner {n}", id="m1")], run=h.run("r1")))
    for n, id_ in enumerate(IDS):
        thread = await store.get_thread("ann", id_)
        same((id_, f"title {n}"), (thread and thread.id, thread and thread.title), f"thread {id_!r}")
        found = await store.get_messages("ann", [id_])
        same([(id_, f"text {n}", id_)], [(m.id, m.text, m.thread_id) for m in found], f"message {id_!r}")
        run = await store.get_run("ann", id_)
        same((id_, id_), (run and run.id, run and run.thread_id), f"run {id_!r}")
        page = await store.list_messages(id_, MessageQuery())
        same([f"owner {n}"], [message.text for message in page], f"owner {id_!r}")
        same(["ann"], await store.find_owners(id_), f"who has thread {id_!r}")
    same(len(IDS), (await store.list_threads("ann", ThreadQuery())).total, "every id is a thread of its own")
    removed = (await store.erase("%", now=h.clock())).removed.get("threads", 0)
    same(1, removed, "erasing the owner '%' must erase that owner only")
    left = sorted([id_ for id_ in ["ann", *IDS] if id_ != "%"])
    same(left, await store.list_owners(), "everybody else is still there")


@behaviour("values: other text is stored exactly or refused, never changed")
async def names(h: Harness) -> None:
    store = await h.fresh()
    for n, text in enumerate([text for text in TEXTS if text and len(text) < 1000]):
        thread = f"t{n}"
        try:
            made = await store.create_thread("ann", h.thread(thread, title=text))
        except ValidationError:
            holds(_awkward(text), f"the title {text!r} must be stored")
            same(None, await store.get_thread("ann", thread), "what is refused leaves nothing")
            await store.create_thread("ann", h.thread(thread))
        else:
            same(text, made.title, "the title as returned")
            same(made, await store.get_thread("ann", thread), "the title as stored")
        message = h.message(speaker=Speaker(id="u", name=text, role=text))
        run = h.run(f"r{n}", agent=text, status="failed", error=text)
        before = await dump(store, "ann")
        try:
            receipt = await store.write_turn("ann", h.turn(thread, [message], run=run))
        except ValidationError:
            holds(_awkward(text), f"the names {text!r} must be stored")
            same(before, await dump(store, "ann"), "what is refused leaves nothing")
            continue
        same(message.speaker, receipt.messages[0].speaker, "the speaker as returned")
        same([receipt.messages[0]], await store.get_messages("ann", [message.id]), "the speaker as stored")
        same(receipt.run, await store.get_run("ann", f"r{n}"), "the run as stored")
        same(
            (text, text), (receipt.run and receipt.run.agent, receipt.run and receipt.run.error), "its names"
        )


@behaviour("values: a name of any length is stored exactly or refused, never an error of the database")
async def long_names(h: Harness) -> None:
    store = await h.fresh()
    # Letters in no order: what repeats would be compressed.
    for n, text in enumerate([_noise(size) for size in (100, 512, 513, 3_000, 30_000)]):
        for field in ("name", "role"):
            message = h.message(speaker=Speaker(**{"id": "u", field: text}))
            try:
                await store.write_turn("ann", h.turn(f"{field} {n}", [message]))
            except ValidationError:
                holds(len(text) > 512, f"a {field} of {len(text)} letters must be stored")
                same(None, await store.get_thread("ann", f"{field} {n}"), "what is refused leaves nothing")
            else:
                found = await store.get_messages("ann", [message.id])
                same([message.speaker], [m.speaker for m in found], f"a {field} of {len(text)} letters")


def _noise(size: int) -> str:
    return "".join([chr(97 + (n * n * n + 7 * n) % 1009 % 26) for n in range(size)])


FILTERS: dict[str, Callable[[Store, str], Awaitable[Sized]]] = {
    "messages of role": lambda s, text: s.list_messages("ann", MessageQuery(roles=(text,))),
    "messages of speaker": lambda s, text: s.list_messages("ann", MessageQuery(speaker_id=text)),
    "messages of run": lambda s, text: s.list_messages("ann", MessageQuery(run_id=text)),
    "messages with": lambda s, text: s.list_messages("ann", MessageQuery(metadata={"a": text})),
    "threads with": lambda s, text: s.list_threads("ann", ThreadQuery(metadata={"a": text})),
    "runs of agent": lambda s, text: s.list_runs("ann", agent=text),
    "runs of thread": lambda s, text: s.list_runs("ann", thread_id=text),
    "messages called": lambda s, text: s.get_messages("ann", [text]),
}


@behaviour("values: a filter by text that cannot be stored finds nothing or is refused")
async def awkward_filters(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["hello"], run=h.run("r1")))
    for text in ("a\x00", "\x00", "\ud800"):
        for what, ask in FILTERS.items():
            with suppress(ValidationError):
                same(0, len(await ask(store, text)), f"{what} {text!r}")


def _awkward(text: str) -> bool:
    """Whether a text column of some database cannot hold it: NUL, or a lone surrogate."""
    return "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)


@behaviour("values: times keep their microsecond, and their moment in any zone")
async def times(h: Harness) -> None:
    store = await h.fresh()
    east = timezone(timedelta(hours=5, minutes=45))
    for n, moment in enumerate(
        [
            datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 30, 0, 999_999, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 123_456, tzinfo=UTC),
            datetime(1000, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2026, 6, 1, 3, 0, tzinfo=east),
            datetime(2026, 6, 1, 22, 0, 0, 5, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
        ]
    ):
        wanted = moment.astimezone(UTC)
        thread = await store.create_thread("ann", h.thread(f"t{n}", at=moment))
        same((wanted, wanted), (thread.created_at, thread.updated_at), "a thread's times")
        same(thread, await store.get_thread("ann", f"t{n}"), "a thread's times as stored")
        run = h.run(f"r{n}", started_at=moment, finished_at=moment, status="finished")
        messages = [h.message(created_at=moment), h.message()]
        receipt = await store.write_turn("ann", h.turn(f"t{n}", messages, at=moment, run=run))
        same([wanted] * 2, [message.created_at for message in receipt.messages], "messages' times")
        same(receipt.messages, (await dump(store, "ann"))["messages"][f"t{n}"], "messages' times as stored")
        found = await store.get_run("ann", f"r{n}")
        same((wanted, wanted), (found and found.started_at, found and found.finished_at), "a run's times")
        page = await store.list_messages("ann", MessageQuery(thread_id=f"t{n}", since=moment, until=moment))
        same(2, page.total, f"a range from {moment} to itself holds that moment")


@behaviour("values: what a caller does to its objects afterwards changes nothing stored")
async def detached(h: Harness) -> None:
    store = await h.fresh()
    metadata: dict[str, Any] = {"list": [1], "deep": {"a": 1}}
    message = h.message(metadata=metadata)
    await store.write_turn("ann", h.turn("t1", [message], metadata=metadata))
    before = await dump(store, "ann")
    metadata["list"].append(2)
    metadata["deep"]["a"] = 2
    metadata["new"] = 1
    same({"list": [1], "deep": {"a": 1}}, before["threads"][0].metadata, "the thread as first read")
    same(before, await dump(store, "ann"), "changing what was passed in must not change what is stored")
    read = (await store.get_messages("ann", [message.id]))[0]
    if isinstance(read.metadata, dict):
        read.metadata["list"].append(3)
    same(before, await dump(store, "ann"), "changing what was read must not change what is stored")
    same(replace(before["threads"][0]), await store.get_thread("ann", "t1"), "the thread is what it was")
