"""The commands and their options. What they do is in the modules beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import _database
from ._terminal import reported

app = typer.Typer(
    name="threadmark",
    help="Talk to an agent that remembers, and look at what is remembered.",
    epilog="Documentation: docs/cli.md",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Database = Annotated[
    str,
    typer.Option("--db", envvar="THREADMARK_DB", metavar="PATH_OR_URL", help="Where memory is kept."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"threadmark {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Talk to an agent that remembers, and look at what is remembered."""


@app.command(short_help="Talk, leave, and come back.")
def chat(
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who is talking. Asked for if not given.")
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option("--thread", metavar="ID", help="Continue this conversation. Default: a new one."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar="THREADMARK_MODEL",
            metavar="MODEL",
            help="`provider:model`, `local` (a small model in this process) or `offline` (quotes memory, no "
            "model). Default: that of the first provider key in the environment, else `offline`.",
        ),
    ] = None,
    db: Database = _database.DEFAULT,
) -> None:
    """Talk, leave, and come back: memory is kept per user, across conversations.

    With input from a pipe, each line is a message and gets an answer; the user is then "me" unless named.
    """
    from ._chat import run

    with reported():
        run(user=user, thread=thread, model=model, db=db)


@app.command(short_help="List the conversations of a user, or all users.")
def threads(
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Whose conversations. Default: list users.")
    ] = None,
    db: Database = _database.DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List the conversations of a user, or all users."""
    from ._show import list_threads

    with reported():
        list_threads(user=user, db=db, as_json=as_json)


@app.command(short_help="Show a conversation.")
def show(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="The conversation's id.")],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whose it is, if several users have one of this id."),
    ] = None,
    db: Database = _database.DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show a conversation: who said what, when, and the tools that were called."""
    from ._show import show_thread

    with reported():
        show_thread(thread=thread, user=user, db=db, as_json=as_json)


@app.command(short_help="Show what a model would see of a conversation now.")
def context(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="The conversation's id.")],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whose it is, if several users have one of this id."),
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="The next message. Default: a placeholder."),
    ] = None,
    last_messages: Annotated[
        int | None,
        typer.Option("--last-messages", metavar="N", min=0, help="As the memory has it. Default: 10."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", min=1, help="The budget of the prompt. Default: none."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All lines of every text.")] = False,
    db: Database = _database.DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show what a model would see of a conversation now: each block of the prompt, its tokens, and why."""
    from ._context import show_context

    with reported():
        show_context(
            thread=thread,
            user=user,
            message=message,
            last_messages=last_messages,
            max_tokens=max_tokens,
            full=full,
            db=db,
            as_json=as_json,
        )


@app.command(short_help="Show what was noted of a conversation, and from what.")
def observations(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="The conversation's id.")],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whose it is, if several users have one of this id."),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            "--view",
            metavar="VIEW",
            help="`live` (all that holds, default), `current` (what a model sees) or `all` (also what was "
            "replaced or undone).",
        ),
    ] = "live",
    sources: Annotated[
        bool, typer.Option("--sources", help="Also show the messages that each line comes from.")
    ] = False,
    db: Database = _database.DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show what was noted of a conversation: each line with its number, and the messages it comes from."""
    from ._observations import show_observations

    with reported():
        show_observations(thread=thread, user=user, view=view, sources=sources, db=db, as_json=as_json)


@app.command(short_help="Find what was said, and say why.")
def recall(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="What to look for, in any words.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="In whose messages. Needed where there are several."),
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", metavar="ID", help="In this conversation only.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top", metavar="N", help="Most messages to find.")] = 4,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="`auto`, `lexical`, `vector` or `hybrid`.")
    ] = "auto",
    status: Annotated[
        bool, typer.Option("--status", help="Show how far the index is, instead of searching.")
    ] = False,
    db: Database = _database.DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Find what was said, and say why: each hit with its score, the score's parts, and its neighbours.

    The first search in a database indexes what it holds.
    """
    from ._recall import run

    with reported():
        run(
            query=query,
            user=user,
            thread=thread,
            top_k=top_k,
            mode=mode,
            db=db,
            status=status,
            as_json=as_json,
        )
