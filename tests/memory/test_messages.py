"""Messages through the scoped handle: saving, reading, paging, changing, deleting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from threadmark import (
    ConflictError,
    DataPart,
    ErrorPart,
    FilePart,
    Memory,
    Message,
    MessageChange,
    NotFoundError,
    ReasoningPart,
    Speaker,
    StepPart,
    TextPart,
    ToolPart,
    ValidationError,
)

pytestmark = pytest.mark.anyio

START = datetime(2026, 1, 1, tzinfo=UTC)


def numbered(count: int, *, tie: bool = False) -> list[Message]:
    """Messages "1" to "count" with ids "m1"..., a minute apart, or all at one instant."""
    return [
        Message.user(str(i), id=f"m{i}", created_at=START + timedelta(minutes=0 if tie else i))
        for i in range(1, count + 1)
    ]


class TestSave:
    async def test_everything_comes_back(self, memory: Memory) -> None:
        """Parts, order, roles, speaker, metadata and times round-trip."""
        rich = Message(
            role="assistant",
            id="rich",
            parts=[
                StepPart(model="m", finish_reason="stop", usage={"input_tokens": 3}),
                ReasoningPart("hm", signature="sig", provider={"id": "r1"}),
                TextPart("  leading, trailing \n\n", provider={"a": [1]}),
                FilePart(media_type="image/png", data=b"\x00\xff", name="a.png"),
                FilePart(media_type="text/html", url="http://example.test/"),
                ToolPart(tool_call_id="c", tool_name="t", args={"x": 1}, state="result", output=[1, None]),
                ToolPart(tool_call_id="d", tool_name="t", args="{broken", state="error", error="no"),
                ErrorPart("ValueError", "bad"),
                DataPart("chart", {"y": 2}),
            ],
            speaker=Speaker(id="s", name="Sam", role="reviewer"),
            metadata={"k": [1, {"n": None}]},
            created_at=START,
        )
        thread = memory.resource("ana").thread("t")
        saved = await thread.save([rich, Message.user("hi", id="u")])
        read = (await thread.messages()).messages

        assert list(read) == saved
        assert read[0].replace(seq=None, thread_id=None) == rich
        assert [message.seq for message in read] == [1, 2]
        assert read[1].speaker is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "  spaces  ",
            "trailing\n\n",
            "<working_memory>kept</working_memory>",
            "nul \x00 inside",
            "lone \ud800 surrogate",
            "👩‍👩‍👧 東京 ‮rtl",
            "x" * 5_000_000,
        ],
        ids=["empty", "spaces", "newlines", "tag", "nul", "surrogate", "emoji", "5MB"],
    )
    async def test_text_is_kept_byte_for_byte(self, memory: Memory, text: str) -> None:
        """Nothing is trimmed, stripped or normalised."""
        thread = memory.resource("ana").thread("t")
        await thread.save(Message.user(text))
        assert (await thread.messages()).messages[0].text == text

    async def test_same_id_again_replaces_content_and_keeps_place_and_time(self, memory: Memory) -> None:
        """Saving twice gives one message, with the newest content and the first `seq` and time."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(3))
        await thread.save(Message.assistant("new", id="m2", created_at=START + timedelta(days=9)))
        page = await thread.messages()

        assert [(m.id, m.text, m.seq) for m in page] == [("m1", "1", 1), ("m2", "new", 2), ("m3", "3", 3)]
        assert page.messages[1].created_at == START + timedelta(minutes=2)
        assert page.total == 3

    async def test_an_id_of_another_thread_is_a_conflict(self, memory: Memory) -> None:
        """A message never moves between threads; nothing of the batch is stored."""
        user = memory.resource("ana")
        await user.thread("a").save(Message.user("a", id="m"))
        with pytest.raises(ConflictError, match="'m' is in use"):
            await user.thread("b").save([Message.user("fine"), Message.user("b", id="m")])
        assert await user.threads.get("b") is None
        assert (await user.thread("a").message("m")).text == "a"  # type: ignore[union-attr]

    async def test_another_owner_may_use_the_id(self, memory: Memory) -> None:
        """Message ids belong to their owner."""
        await memory.resource("ana").thread("t").save(Message.user("Ana's", id="m"))
        await memory.resource("bob").thread("t").save(Message.user("Bob's", id="m"))
        assert (await memory.resource("ana").message("m")).text == "Ana's"  # type: ignore[union-attr]
        assert (await memory.resource("bob").message("m")).text == "Bob's"  # type: ignore[union-attr]

    async def test_a_message_of_another_thread_is_refused(self, memory: Memory) -> None:
        """What was read from one thread cannot be saved into another by mistake."""
        user = memory.resource("ana")
        [message] = await user.thread("a").save("x")
        with pytest.raises(ValidationError, match="belongs to another thread"):
            await user.thread("b").save(message)

    async def test_system_messages_are_not_memory(self, memory: Memory) -> None:
        """They are left out; the rest is stored."""
        thread = memory.resource("ana").thread("t")
        saved = await thread.save([Message.system("be nice"), Message.user("hi")])
        assert [(m.role, m.seq) for m in saved] == [("user", 1)]

    async def test_all_or_nothing(self, memory: Memory) -> None:
        """One bad message, none stored, and no thread."""
        thread = memory.resource("ana").thread("t")
        bad = Message(role="assistant", parts=[DataPart("x", object())])
        with pytest.raises(ValidationError, match="not JSON"):
            await thread.save([Message.user("fine"), bad])
        assert await thread.get() is None

    async def test_create_false(self, memory: Memory) -> None:
        """Saving into an unknown thread creates it, unless told not to."""
        thread = memory.resource("ana").thread("t")
        with pytest.raises(NotFoundError):
            await thread.save("x", create=False)
        await thread.save("x")
        assert (await thread.get()).message_count == 1  # type: ignore[union-attr]

    @pytest.mark.parametrize("value", [3, b"x", [3], {"role": "user"}, {"content": "x", "colour": 1}])
    async def test_what_is_no_message_is_refused(self, memory: Memory, value: Any) -> None:
        """A clear error, nothing stored."""
        thread = memory.resource("ana").thread("t")
        with pytest.raises(ValidationError):
            await thread.save(value)
        assert await thread.get() is None


class TestRead:
    async def test_defaults(self, memory: Memory) -> None:
        """The newest ten, oldest first, and that there are more."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(25))
        page = await thread.messages()
        assert [message.text for message in page] == [str(i) for i in range(16, 26)]
        assert (page.total, page.has_more) == (25, True)

    async def test_pages_count_from_the_newest(self, memory: Memory) -> None:
        """Page 1 of five holds 16 to 20, oldest first; past the end is empty."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(25))
        assert [m.text for m in await thread.messages(1, 5)] == ["16", "17", "18", "19", "20"]
        assert not (await thread.messages(5, 5)).has_more
        assert len(await thread.messages(9, 5)) == 0
        assert [m.text for m in await thread.messages(per_page=None)] == [str(i) for i in range(1, 26)]

    async def test_order(self, memory: Memory) -> None:
        """ "asc" pages from the oldest; "desc" really is newest first."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(5))
        assert [m.text for m in await thread.messages(0, 2, order="asc")] == ["1", "2"]
        assert [m.text for m in await thread.messages(0, 2, order="desc")] == ["5", "4"]
        assert [m.text for m in await thread.messages(1, 2, order="desc")] == ["3", "2"]
        assert [m.text for m in await thread.messages(per_page=None, order="desc")] == list("54321")

    async def test_dates(self, memory: Memory) -> None:
        """Both ends are included unless excluded; truncation is visible in `has_more`."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(25))
        span = {"since": START + timedelta(minutes=3), "until": START + timedelta(minutes=6)}
        assert [m.text for m in await thread.messages(**span)] == ["3", "4", "5", "6"]  # type: ignore[arg-type]
        inner = await thread.messages(**span, exclude_since=True, exclude_until=True)  # type: ignore[arg-type]
        assert [m.text for m in inner] == ["4", "5"]
        cut = await thread.messages(since=START)
        assert (len(cut), cut.total, cut.has_more) == (10, 25, True)

    async def test_times_of_any_zone(self, memory: Memory) -> None:
        """Times are instants: other zones are converted, naive ones taken as UTC."""
        thread = memory.resource("ana").thread("t")
        offset = datetime.fromisoformat("2026-01-01T02:00:00+02:00")
        await thread.save(
            [Message.user("a", created_at=offset), Message.user("b", created_at=datetime(2026, 1, 2))]
        )
        assert [m.created_at for m in await thread.messages()] == [START, datetime(2026, 1, 2, tzinfo=UTC)]

    async def test_filters(self, memory: Memory) -> None:
        """By role, speaker and exact metadata."""
        thread = memory.resource("ana").thread("t")
        await thread.save(
            [
                Message.user("a", speaker=Speaker(id="x"), metadata={"n": 1}),
                Message.assistant("b", metadata={"n": "1"}),
                Message.user("c", speaker=Speaker(id="y"), metadata={"n": None}),
            ]
        )
        assert [m.text for m in await thread.messages(roles=["assistant"])] == ["b"]
        assert [m.text for m in await thread.messages(speaker="y")] == ["c"]
        assert [m.text for m in await thread.messages(metadata={"n": 1})] == ["a"]
        assert [m.text for m in await thread.messages(metadata={"n": None})] == ["c"]

    async def test_by_id_with_neighbours(self, memory: Memory) -> None:
        """Exactly the message, three before and one after; windows that overlap give each once."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(20))
        assert [m.text for m in await thread.messages(around="m10", before=3, after=1)] == [
            "7", "8", "9", "10", "11",
        ]  # fmt: skip
        both = await thread.messages(around=["m12", "m10"], before=1, after=1)
        assert [m.text for m in both] == ["9", "10", "11", "12", "13"]
        assert [m.text for m in await thread.messages(around=["m1", "m20"], before=5)] == [
            "1", "15", "16", "17", "18", "19", "20",
        ]  # fmt: skip

    async def test_neighbours_stay_in_their_thread(self, memory: Memory) -> None:
        """The window ends where the thread ends."""
        user = memory.resource("ana")
        await user.thread("a").save([Message.user("a1"), Message.user("a2", id="a2")])
        await user.thread("b").save([Message.user("b1", id="b1"), Message.user("b2")])
        assert [m.text for m in await user.thread("a").messages(around="a2", before=9, after=9)] == [
            "a1",
            "a2",
        ]
        assert [m.text for m in await user.thread("b").messages(around="b1", before=9, after=9)] == [
            "b1",
            "b2",
        ]
        assert len(await user.thread("b").messages(around="a2")) == 0

    async def test_equal_times_keep_their_order(self, memory: Memory) -> None:
        """Order is the order of saving; a message asked for by id is that message."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(7, tie=True)[::-1])
        assert [m.id for m in await thread.messages()] == [f"m{i}" for i in range(7, 0, -1)]
        assert [m.id for m in await thread.messages(around="m3")] == ["m3"]
        assert [m.id for m in await thread.messages(1, 3)] == ["m6", "m5", "m4"]

    async def test_clocks_cannot_reorder(self, memory: Memory) -> None:
        """A message with an older time stands where it was saved."""
        thread = memory.resource("ana").thread("t")
        await thread.save(Message.user("first", created_at=START))
        await thread.save(Message.user("second", created_at=START - timedelta(days=1)))
        assert [m.text for m in await thread.messages()] == ["first", "second"]

    async def test_history_off_reads_nothing(self, tmp_path: Any) -> None:
        """With `last_messages=False` the default page is empty; an explicit size still reads."""
        async with Memory(f"sqlite:///{tmp_path}/m.db", last_messages=False) as memory:
            thread = memory.resource("ana").thread("t")
            await thread.save("x")
            assert len(await thread.messages()) == 0
            assert len(await thread.messages(per_page=5)) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            {"page": -1},
            {"per_page": -5},
            {"per_page": "all"},
            {"page": 2, "per_page": None},
            {"order": "DESC"},
            {"order": {"field": "createdAt"}},
            {"metadata": {"a-b": 1}},
            {"metadata": {"a": [1]}},
            {"since": "yesterday"},
            {"around": ""},
            {"around": "m1", "before": -1},
        ],
    )
    async def test_bad_arguments_are_errors(self, memory: Memory, arguments: Any) -> None:
        """Nothing falls back to a silent default."""
        thread = memory.resource("ana").thread("t")
        await thread.save(numbered(3))
        with pytest.raises(ValidationError):
            await thread.messages(**arguments)

    async def test_across_threads(self, memory: Memory) -> None:
        """The owner's messages of all threads, by time."""
        user = memory.resource("ana")
        await user.thread("a").save(
            [Message.user("1", created_at=START), Message.user("3", created_at=START + timedelta(2))]
        )
        await user.thread("b").save(Message.user("2", created_at=START + timedelta(1)))
        await memory.resource("bob").thread("a").save("not yours")
        assert [m.text for m in await user.messages()] == ["1", "2", "3"]
        assert [m.thread_id for m in await user.messages(0, 1)] == ["a"]


class TestChange:
    async def test_text_and_metadata(self, memory: Memory) -> None:
        """Text replaces all parts, metadata merges, keys can go; place and time stay."""
        thread = memory.resource("ana").thread("t")
        await thread.save(Message.user("old", id="m", metadata={"a": 1, "b": 2}, created_at=START))
        changed = await thread.update_message("m", text="new", metadata={"c": 3}, remove=["a"])
        assert (changed.text, changed.metadata, changed.created_at, changed.seq) == (
            "new",
            {"b": 2, "c": 3},
            START,
            1,
        )
        assert (await thread.update_message("m", metadata={"d": 4})).text == "new"

    async def test_unknown_ids(self, memory: Memory) -> None:
        """One unknown message is an error; in a batch the others are changed and reported."""
        thread = memory.resource("ana").thread("t")
        await thread.save(Message.user("x", id="m"))
        with pytest.raises(NotFoundError, match="'nope'"):
            await thread.update_message("nope", text="y")
        changed = await thread.update_messages(
            [MessageChange(id="nope", parts=(TextPart("y"),)), MessageChange(id="m", parts=(TextPart("y"),))]
        )
        assert [message.id for message in changed] == ["m"]

    async def test_delete(self, memory: Memory) -> None:
        """By id or message, unknown ids and none at all are fine; `seq` is not used again."""
        thread = memory.resource("ana").thread("t")
        saved = await thread.save(numbered(4))
        assert await thread.delete_messages(["m4", "nope", "m4"]) == ["m4"]
        assert await thread.delete_messages(saved[0]) == ["m1"]
        assert await thread.delete_messages([]) == []
        assert [message.seq for message in await thread.save("new")] == [5]
        assert (await thread.get()).message_count == 3  # type: ignore[union-attr]
        for bad in ([3], [""], [None]):
            with pytest.raises(ValidationError):
                await thread.delete_messages(bad)  # type: ignore[arg-type]
