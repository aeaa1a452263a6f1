"""Observations that name no message: they may rest on any that was read, and go with it."""

from __future__ import annotations

from ..._types import Speaker, TextPart
from ...stores.base import (
    Activation,
    Covered,
    Hints,
    MessageChange,
    ObservationCommit,
    SpeakerErasure,
    message_digest,
)
from ._expect import holds, same
from ._harness import Harness
from ._observing import claim, condense, messages_of, observe, raws, row, state, summary, texts, with_messages
from ._registry import behaviour


@behaviour("observations: a row that names no message goes with any of its range", needs="observations")
async def unsourced_rows(h: Harness) -> None:
    store = await with_messages(h)
    await observe(
        store, h, 1, 3, [row("told", flags=("unsourced",)), row("one", "m1"), row("two", "m2", "m3")]
    )
    await observe(store, h, 4, 6, [row("other", flags=("unsourced",)), row("four", "m4", "m5", "m6")])
    await store.activate_observations("ann", Activation(thread_id="t1", to_seq=6, now=h.clock()))
    rows = {found.text: found.id for found in (await state(store, h)).rows}
    await condense(store, h, [summary("both", rows["told"], rows["other"])])
    same(["both", "one", "two", "four"], texts(await state(store, h)), "a summary over both")
    await store.delete_messages("ann", "t1", ["m1"], h.clock())
    found = await state(store, h)
    same(["two", "other", "four"], texts(found), "it may rest on the deleted message; the other cannot")
    same([], raws(found), "and no other message is uncovered by it")


@behaviour("observations: what names no message is stored if all is as it was read", needs="observations")
async def unsourced_results(h: Harness) -> None:
    for change in ("none", "delete"):
        store = await with_messages(h)
        job = await claim(store, h, 1, 3)
        assert job is not None
        seen = await messages_of(store, "ann", "t1")
        covered = [Covered(message_id=f"m{n}", digest=message_digest(seen[f"m{n}"])) for n in (1, 2, 3)]
        if change == "delete":
            await store.delete_messages("ann", "t1", ["m1"], h.clock())
        receipt = await store.commit_observations(
            "ann",
            ObservationCommit(
                thread_id="t1",
                job_id=job.id,
                fence=job.fence,
                now=h.clock(),
                rows=(row("told", flags=("unsourced",)), row("rest", "m2", "m3")),
                covered=tuple(covered),
                hints=Hints(current_task="help", seq=3),
                extracted={"pin": "1"},
                title="told",
            ),
        )
        thread = await store.get_thread("ann", "t1")
        assert thread is not None
        stored = (
            [item.text for item in receipt.rows],
            receipt.log.hints.current_task,
            dict(receipt.log.extracted),
            thread.title,
        )
        if change == "none":
            same((["told", "rest"], "help", {"pin": "1"}, "told"), stored, "all of it")
        else:
            same((["rest"], "", {}, ""), stored, "only what names messages that are there")


@behaviour("observations: nothing is said of a whole of which something went meanwhile", needs="observations")
async def disturbed_results(h: Harness) -> None:
    """Also of what the job did not read itself, but was told: earlier rows, values and hints."""
    for kind in ("observe", "reflect"):
        for change in ("none", "delete", "edit", "speaker"):
            store = await with_messages(h)
            first = [row("one", "m1"), row("two", "m2"), row("three", "m3")]
            await observe(store, h, 1, 3, first, activate=True, extracted={"pin": "1"}, hints=Hints(seq=3))
            job = await claim(store, h, *((4, 6) if kind == "observe" else (1, 3)), kind=kind)
            assert job is not None
            seen = await messages_of(store, "ann", "t1")
            kept = {found.text: found.id for found in (await state(store, h)).rows}
            if change == "delete":
                await store.delete_messages("ann", "t1", ["m1"], h.clock())
            elif change == "edit":
                edit = MessageChange(id="m1", parts=(TextPart("another"),))
                await store.update_messages("ann", "t1", [edit], h.clock())
            elif change == "speaker":
                erasure = SpeakerErasure(thread_id="t1", speaker_id="a1", now=h.clock())
                await store.write_turn(
                    "ann", h.turn("t1", [h.message("mine", id="m7", speaker=Speaker(id="a1"))])
                )
                await store.erase_speaker("ann", erasure, scrub=False)
            rows = (
                (row("rest", "m4", "m5", "m6"), row("told", flags=("unsourced",)))
                if kind == "observe"
                else (summary("both", kept["two"], kept["three"]),)
            )
            covered = [Covered(message_id=f"m{n}", digest=message_digest(seen[f"m{n}"])) for n in (4, 5, 6)]
            receipt = await store.commit_observations(
                "ann",
                ObservationCommit(
                    thread_id="t1",
                    job_id=job.id,
                    fence=job.fence,
                    now=h.clock(),
                    rows=rows,
                    covered=tuple(covered) if kind == "observe" else (),
                    hints=Hints(current_task="help", seq=6) if kind == "observe" else None,
                    extracted={"pin": "1 and 2"},
                ),
            )
            texts_ = [item.text for item in receipt.rows]
            log = receipt.log
            if change == "none":
                same("1 and 2", log.extracted.get("pin"), f"{kind}: all of it")
            else:
                same(
                    ["rest"] if kind == "observe" else ["both"], texts_, f"{kind}, {change}: rows with names"
                )
                holds(log.extracted.get("pin") in (None, "1"), f"{kind}, {change}: the value may tell of it")
                same("", log.hints.current_task, f"{kind}, {change}: so may the task")
