"""The same random life on SQLite and on PostgreSQL: every answer of the one is the other's.

Whatever is done goes through the public handles of two memories, one on each store; only observations are
committed and messages embedded by the stores' own operations, for which no model has to be asked. Texts are
what SQL, patterns, JSON and the two databases' own searches might trip over.
"""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hostile_values import (
    TEXTS,
    batches,
    filters,
    keys,
    message_ids,
    metadata,
    owners,
    rarely,
    runs,
    sizes,
    texts,
    threads,
    times,
    works,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from postgres_harness import drop

from threadmark import Memory, Message
from threadmark._errors import ConflictError, NotFoundError, ThreadmarkError, ValidationError
from threadmark.stores.base import (
    Activation,
    Covered,
    Embedded,
    JobClaim,
    JobFailure,
    LogQuery,
    MatchQuery,
    MessageQuery,
    NewObservation,
    ObservationCommit,
    ObservationQuery,
    RecallFilter,
    RecallQuery,
    Source,
    TurnQuery,
    Window,
    message_digest,
)
from threadmark.stores.maintenance import check_store
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._clock import FakeClock
from threadmark.testing.conformance import Builders, dump, same

OWNERS = ("ann", "Ann%")


def vector(text: str) -> bytes:
    angles = [(1.0, 0.0), (0.6, 0.8), (0.0, 1.0), (-0.8, 0.6), (0.28, 0.96)]
    return struct.pack("<2f", *angles[len(text) % len(angles)])


OWN = ("token", "scrubbed", "rank", "next_cursor")


def plain(value: Any) -> Any:
    """What can be compared: scores as far as the ranking goes by them, and nothing that is a store's own."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {one.name: getattr(value, one.name) for one in fields(value)}
        return {name: plain(one) for name, one in named.items() if name not in OWN}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


KINDS: list[tuple[str, Any]] = []


def does(often: int = 1, **given: Any) -> Callable[[Any], Any]:
    """Something that happens, of arguments by these strategies, and how often beside the others."""

    def keep(method: Any) -> Any:
        KINDS.extend([(method.__name__, st.fixed_dictionaries(given))] * often)
        return method

    return keep


class Twins(RuleBasedStateMachine):
    """One life, led twice."""

    url: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.Runner()
        self.schema = f"twins{uuid.uuid4().hex}"
        stores = (SQLiteStore(None), PostgresStore(self.url, schema=self.schema, pool_size=2))
        self.memories = [Memory(store, clock=FakeClock()) for store in stores]
        self.builds = [Builders() for _ in stores]
        self.now = FakeClock()
        self.fences: dict[tuple[str, str], list[Any]] = {}
        self.both(lambda m, b: m.store.enable_recall(self.now()))
        self.both(lambda m, b: m.store.add_space("e", 2, self.now()))
        for owner in OWNERS:
            for thread in ("t1", "t2"):
                first = [Message(id=f"{thread}{n}", text=text) for n, text in enumerate(TEXTS[:6])]
                self.save(owner, thread, first)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            # What the index lacks may be what the backfill has not come to.
            found = [
                problem
                for memory in self.memories
                for problem in self.loop.run(check_store(memory.store))
                if "that the recall index lacks" not in problem.what
            ]
            for memory in self.memories:
                self.loop.run(memory.store.aclose())
            self.loop.close()
            drop(self.url, self.schema)
            assert not found

    def both(self, ask: Callable[[Memory, Builders], Awaitable[Any]]) -> Any:
        """The answers of both, which are equal, or of two reasons to refuse one each.

        Each memory has a clock and ids of its own.
        """

        async def one(memory: Memory, build: Builders) -> Any:
            try:
                return await ask(memory, build)
            except (NotFoundError, ConflictError, ValidationError):
                return "refused"
            except ThreadmarkError as error:
                return type(error)

        async def work() -> list[Any]:
            return [await one(m, b) for m, b in zip(self.memories, self.builds, strict=True)]

        found = self.loop.run(work())
        same(plain(found[0]), plain(found[1]), "PostgreSQL differs from SQLite")
        return found

    @rule(data=st.data(), kind=st.integers(0, 999))
    def something(self, data: st.DataObject, kind: int) -> None:
        # One rule for all: with a rule for each, most lives would be without most of them.
        name, given = KINDS[kind % len(KINDS)]
        arguments = data.draw(given, label=name)
        getattr(self, name)(**arguments)

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "memories"):
            return
        for owner in OWNERS:
            self.both(lambda m, b, who=owner: dump(m.store, who))  # type: ignore[misc]
            for view in ("all", "current", "live"):
                query = ObservationQuery(view=view, per_page=None)
                self.both(lambda m, b, who=owner, q=query: m.store.list_observations(who, q))  # type: ignore[misc]
        self.both(lambda m, b: m.admin.resources())
        states = [self.loop.run(memory.store.recall_state()) for memory in self.memories]
        one, two = [(s.enabled, s.language, s.complete and s.indexed, s.messages) for s in states]
        same(one, two, "the index")
        here, there = [[(p.name, p.embedded, p.waiting + p.unqueued) for p in s.spaces] for s in states]
        same(here, there, "spaces")

    # -- what changes ------------------------------------------------------------------------------------

    @does(seconds=st.sampled_from([1, 60, -5, 0.000001]))
    def time_passes(self, seconds: float) -> None:
        for memory in self.memories:
            memory.now.advance(seconds)  # type: ignore[attr-defined]
        self.now.advance(seconds)

    @does(language=st.sampled_from([None, "english", "german", "simple"]))
    def index_in(self, language: str | None) -> None:
        self.both(lambda m, b: m.store.enable_recall(self.now(), language=language))
        for memory in self.memories:
            while not self.loop.run(memory.store.backfill_recall()).finished:
                pass

    @does(owner=owners, thread=threads, title=texts, metadata=metadata)
    def create(self, owner: str, thread: str, title: str, metadata: dict[str, Any]) -> None:
        self.both(lambda m, b: m.resource(owner).threads.create(thread, title=title, metadata=metadata))

    @does(
        owner=owners,
        thread=threads,
        title=st.one_of(st.none(), texts),
        metadata=st.one_of(st.none(), metadata),
        remove=st.lists(keys, max_size=1),
        if_version=st.one_of(st.none(), st.integers(1, 4)),
    )
    def update(self, owner: str, thread: str, **rest: Any) -> None:
        self.both(lambda m, b: m.resource(owner).thread(thread).update(**rest))

    @does(5, owner=owners, thread=threads, batch=batches())
    def save(self, owner: str, thread: str, batch: list[Message]) -> None:
        self.both(lambda m, b: m.resource(owner).thread(thread).save(batch))

    @does(
        3,
        owner=owners,
        thread=threads,
        batch=batches(),
        run=st.one_of(st.none(), runs),
        if_version=st.integers(0, 2),
        remember=st.one_of(st.none(), texts),
        of_thread=st.booleans(),
        window=st.one_of(st.none(), st.integers(0, 3)),
        data=metadata,
    )
    def turn(
        self, owner: str, thread: str, batch: list[Message], run: Any, if_version: int, remember: Any,
        of_thread: bool, window: Any, data: dict[str, Any],
    ) -> None:  # fmt: skip
        def ask(m: Memory, b: Builders) -> Awaitable[Any]:
            state = {"state": data, "status": "suspended", "error": None}
            work = b.run(run, if_version=if_version, agent="a%", **state) if run else None
            memory = (
                b.remember(remember, if_version=if_version, thread_id=thread if of_thread else None)
                if remember is not None
                else None
            )
            shown = None if window is None else Window(seq=window, memory=1, fingerprint="f", counted="{}")
            write = b.turn(thread, batch, run=work, working_memory=memory, window=shown, metadata=data)
            return m.store.write_turn(owner, write)

        self.both(ask)

    @does(2, owner=owners, thread=threads, ids=st.lists(message_ids, max_size=2), text=texts, data=metadata)
    def edit(self, owner: str, thread: str, ids: list[str], text: str, data: dict[str, Any]) -> None:
        for id_ in ids:
            self.both(
                lambda m, b, i=id_: (
                    m.resource(owner).thread(thread).update_message(i, text=text, metadata=data)
                )  # type: ignore[misc]
            )

    @does(owner=owners, thread=threads, ids=st.lists(message_ids, max_size=3))
    def delete_messages(self, owner: str, thread: str, ids: list[str]) -> None:
        self.both(lambda m, b: m.resource(owner).thread(thread).delete_messages(ids))

    @does(owner=owners, thread=threads, sure=rarely)
    def delete_thread(self, owner: str, thread: str, sure: bool) -> None:
        if sure:
            self.both(lambda m, b: m.resource(owner).thread(thread).delete())

    @does(2, owner=owners, thread=threads, to=owners, new=threads, last=sizes, since=times)
    def clone(self, owner: str, thread: str, to: str, new: str, last: Any, since: Any) -> None:
        self.both(
            lambda m, b: m.store.clone_thread(owner, thread, b.clone(new, owner=to, last=last, since=since))
        )

    @does(owner=owners, thread=threads, to=owners)
    def transfer(self, owner: str, thread: str, to: str) -> None:
        self.both(lambda m, b: m.admin.transfer(thread, to=to, owner=owner))

    @does(owner=owners, thread=st.one_of(st.none(), threads, threads), sure=rarely)
    def erase(self, owner: str, thread: str | None, sure: bool) -> None:
        if sure:
            self.both(lambda m, b: m.store.erase(owner, thread_id=thread, now=b.clock(), scrub=False))

    @does(owner=owners, thread=st.one_of(st.none(), threads), content=texts, late=rarely)
    def remember(self, owner: str, thread: str | None, content: str, late: bool) -> None:
        async def ask(m: Memory, b: Builders) -> Any:
            there = await m.store.get_working_memory(owner, thread_id=thread)
            version = (there.version if there else 0) + late
            write = b.remember(content, if_version=version, thread_id=thread)
            return await m.store.write_working_memory(owner, write, b.clock())

        self.both(ask)

    @does(2, keep=st.booleans())
    def embed(self, keep: bool) -> None:
        """All that waits, or none of it: the two hand out in orders of their own."""

        async def work(m: Memory, b: Builders) -> Any:
            made: list[str] = []
            while claims := await m.store.claim_embeddings("e", limit=50, now=b.clock()):
                made += [claim.message.id for claim in claims]
                vectors = [Embedded(token=c.token, vectors=[vector(c.message.text)]) for c in claims]
                if keep:
                    await m.store.store_embeddings("e", vectors)
                else:
                    tokens = [claim.token for claim in claims]
                    at = b.clock() + timedelta(minutes=5)
                    await m.store.fail_embeddings("e", tokens, error="no", retry_at=at)
            return sorted(made)

        self.both(work)

    # -- observations ------------------------------------------------------------------------------------

    @does(
        6,
        owner=owners,
        thread=threads,
        skip=st.sampled_from([0, 0, 0, -1, 1]),
        length=st.integers(0, 3),
        prompt=st.sampled_from(["p1", "p2", "p3"]),
        kind=st.sampled_from(["observe", "observe", "observe", "reflect"]),
        then=st.booleans(),
        work=works,
    )
    def claim(
        self, owner: str, thread: str, skip: int, length: int, prompt: str, kind: Any, then: bool, work: Any
    ) -> None:
        """Claim a range, most often the next one, and as often as not finish the job at once."""

        async def ask(m: Memory, b: Builders) -> Any:
            now = b.clock()
            log = (await m.store.read_observations(owner, LogQuery(thread_id=thread, now=now))).log
            first = max(1, log.observed_seq + 1 + skip) if kind == "observe" else 1
            return await m.store.claim_observation_job(
                owner,
                JobClaim(
                    thread_id=thread, kind=kind, id=b.new_id(), from_seq=first, to_seq=first + length,
                    prompt=prompt, holder="h", now=now, until=now + timedelta(seconds=20),
                ),
            )  # fmt: skip

        found = self.both(ask)
        if found[0] not in (None, "refused") and not isinstance(found[0], type):
            self.fences[owner, thread] = found
            if then:
                self.commit(owner, thread, work)

    @does(owner=owners, thread=threads, work=works)
    def finish(self, owner: str, thread: str, work: Any) -> None:
        self.commit(owner, thread, work)

    def commit(self, owner: str, thread: str, work: tuple[Any, ...]) -> None:
        rows, activate, title, extracted, fails = work
        jobs = self.fences.pop((owner, thread), None)
        if jobs is None:
            return

        async def ask(m: Memory, b: Builders) -> Any:
            job = jobs[self.memories.index(m)]
            if fails:
                failure = JobFailure(
                    thread_id=thread, job_id=job.id, fence=job.fence, now=b.clock(), error=f"e {title}"
                )
                return await m.store.fail_observation_job(owner, failure)
            page = await m.store.list_messages(owner, MessageQuery(thread_id=thread))
            seen = [one for one in page if one.seq and job.from_seq <= one.seq <= job.to_seq]
            query = ObservationQuery(thread_id=thread, view="live", per_page=None)
            there = (await m.store.list_observations(owner, query)).observations
            made = []
            for text, which, supersedes, pending in rows:
                old = (there[which % len(there)].id,) if there else ()
                if job.kind == "reflect":
                    made.append(
                        NewObservation(
                            kind="summary", priority="high", text=text, made_by="reflector", children=old,
                            pending=pending,
                        )
                    )  # fmt: skip
                elif seen:
                    source = Source(message_id=seen[which % len(seen)].id)
                    made.append(
                        NewObservation(
                            kind="fact", priority="high" if pending else "low", text=text, sources=(source,),
                            supersedes=old if supersedes else (), subject=text[:3] or None, said_at=b.clock(),
                        )
                    )  # fmt: skip
            commit = ObservationCommit(
                thread_id=thread, job_id=job.id, fence=job.fence, now=b.clock(), rows=tuple(made),
                covered=tuple([Covered(message_id=one.id, digest=message_digest(one)) for one in seen[:2]]),
                activate=activate, title=title, extracted=extracted,
            )  # fmt: skip
            return await m.store.commit_observations(owner, commit)

        self.both(ask)

    @does(2, owner=owners, thread=threads, to=sizes, summaries=st.booleans())
    def activate(self, owner: str, thread: str, to: int | None, summaries: bool) -> None:
        self.both(
            lambda m, b: m.store.activate_observations(
                owner, Activation(thread_id=thread, to_seq=to, summaries=summaries, now=b.clock())
            )
        )

    @does(owner=owners, thread=threads, ids=st.lists(st.sampled_from(["o1", "o2", "o3", "x%"]), max_size=2))
    def retire(self, owner: str, thread: str, ids: list[str]) -> None:
        self.both(lambda m, b: m.store.retire_observations(owner, thread, ids, b.clock()))

    # -- what is asked -----------------------------------------------------------------------------------

    @does(
        owner=owners, thread=threads, limit=st.integers(0, 4), oldest=st.booleans(), profile=st.integers(0, 2)
    )
    def log(self, owner: str, thread: str, **rest: Any) -> None:
        self.both(
            lambda m, b: m.store.read_observations(owner, LogQuery(thread_id=thread, now=b.clock(), **rest))
        )
        self.both(lambda m, b: m.store.list_observation_jobs(owner, thread))

    @does(
        2,
        owner=owners,
        text=st.one_of(st.none(), texts),
        subject=st.one_of(st.none(), texts),
        message_id=st.one_of(st.none(), message_ids),
        view=st.sampled_from(["all", "live", "current"]),
        as_of=times,
    )
    def rows(self, owner: str, **rest: Any) -> None:
        with suppress(ThreadmarkError):
            query = ObservationQuery(**rest)
            self.both(lambda m, b: m.store.list_observations(owner, query))

    @does(
        owner=owners,
        thread=threads,
        page=st.integers(0, 1),
        per_page=st.integers(0, 3),
        order=st.sampled_from([None, "asc", "desc"]),
        since=times,
        until=times,
        metadata=filters,
        everywhere=st.booleans(),
    )
    def messages(self, owner: str, thread: str, everywhere: bool, **rest: Any) -> None:
        query = MessageQuery(thread_id=None if everywhere else thread, **rest)
        self.both(lambda m, b: m.store.list_messages(owner, query))

    @does(owner=owners, metadata=filters, page=st.integers(0, 1), per_page=st.integers(0, 2))
    def list_threads(self, owner: str, **rest: Any) -> None:
        for order in ("created_at", "updated_at"):
            self.both(lambda m, b, by=order: m.resource(owner).threads.list(order_by=by, **rest))  # type: ignore[misc]

    @does(
        2,
        owner=owners,
        thread=threads,
        last=sizes,
        slack=st.integers(0, 3),
        ids=st.lists(message_ids, max_size=2),
        scope=st.sampled_from([None, "thread", "resource"]),
        observed=st.booleans(),
    )
    def read_turn(
        self, owner: str, thread: str, last: Any, slack: int, ids: Any, scope: Any, observed: bool
    ) -> None:
        def ask(m: Memory, b: Builders) -> Awaitable[Any]:
            log = LogQuery(thread_id=thread, now=b.clock(), profile=2) if observed else None
            query = TurnQuery(
                thread_id=thread, last=last, slack=slack, known_ids=tuple(ids), working_memory=scope,
                observations=log, run_id="r1",
            )  # fmt: skip
            return m.store.read_turn(owner, query)

        self.both(ask)

    @does(
        4,
        owner=owners,
        text=texts,
        lexical=st.booleans(),
        limit=st.integers(0, 5),
        only=st.one_of(st.none(), st.lists(threads, max_size=2)),
        metadata=filters,
        names=st.lists(st.sampled_from(["Ana", "u2", "İ", "%"]), max_size=1),
        since=times,
        neighbours=st.integers(0, 1),
    )
    def search(
        self, owner: str, text: str, lexical: bool, limit: int, only: Any, metadata: Any, names: Any,
        since: Any, neighbours: int,
    ) -> None:  # fmt: skip
        """The same hits with the same scores; what scores alike may stand in any order."""
        wanted = RecallFilter(
            thread_ids=None if only is None else tuple(only),
            metadata=metadata,
            speakers=tuple(names),
            since=since,
        )
        more = {} if lexical else {"vector": vector(text), "space": "e"}
        # All of them: of those that score alike it is not said which are the first.
        query = RecallQuery(query=text, limit=50, filter=wanted, before=neighbours, **more)  # type: ignore[arg-type]

        async def ask(m: Memory, b: Builders) -> Any:
            found = await m.store.search_messages(owner, query)
            hits = sorted(
                [(-round(hit.score, 4), hit.message.id, hit.message.thread_id) for hit in found.hits]
            )
            return hits, found.messages, found.indexed, found.embedded

        self.both(ask)
        self.both(lambda m, b: m.store.search_threads(owner, text, metadata=metadata))
        match = MatchQuery(text=text, any_word=lexical, filter=wanted, per_page=limit)
        self.both(lambda m, b: m.store.match_messages(owner, match))
        self.both(lambda m, b: m.store.list_speakers(owner))

    @does(owner=owners, thread=threads, status=st.sampled_from([None, "suspended", "running"]))
    def list_runs(self, owner: str, thread: str, status: Any) -> None:
        self.both(lambda m, b: m.store.list_runs(owner, status=status, agent="a%", per_page=1))
        self.both(lambda m, b: m.resource(owner).thread(thread).clones())
        self.both(lambda m, b: m.resource(owner).thread(thread).history())
        self.both(lambda m, b: m.admin.owners(thread))

    @does(owner=owners)
    def export(self, owner: str) -> None:
        self.both(lambda m, b: m.resource(owner).export())


def live(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],  # making a failing life shorter takes many more, of two databases each
        ),
    )


def test_both_stores_lead_the_same_life(postgres: str) -> None:
    """Answers, errors, rankings and what is stored are equal after each step."""
    pytest.importorskip("numpy")
    Twins.url = postgres
    live(5, 40)


@pytest.mark.nightly
def test_both_stores_lead_the_same_life_all_night(postgres: str) -> None:
    """The same, many more times."""
    Twins.url = postgres
    live(1000, 80)
