"""Asking the model: one answer, through the processors that see a step."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from .._errors import ModelError, ThreadmarkError
from .._types import Part, ReasoningPart, TextPart, Usage
from ..models.base import ModelRequest, ModelResponse
from ..models.tracing import chat
from ..processors.report import explain
from .calls import describe_error
from .opening import begin
from .plan import TimeUpError
from .state import RunState
from .streaming import StreamedAnswer
from .tools import ToolSet

_OVERFLOW = re.compile(
    r"context[ _](length|window)|maximum context|(prompt|input) is too long|too many (input )?tokens"
    r"|exceeds? the (maximum|model's|limit)|reduce the length|request_too_large",
    re.I,
)
"""How providers word that."""

_ONE_REQUEST = Usage(requests=1)


async def ask(state: RunState) -> tuple[ModelResponse, bool]:
    """One answer of the model, and whether it has been told already."""
    guards = state.guards
    request = ModelRequest(
        messages=state.conversation(),
        instructions=state.instructions,
        tools=state.offered.definitions,
        settings=state.settings,
    )
    if state.output is not None:
        request = state.output.ask(request)
    response: ModelResponse | None = None
    if guards is not None:
        made, response, changed = await guards.input_step(request)
        if state.step == 1 and changed:
            state.report = explain(state.prompt.report, request, made, changed)
        names = {item.name for item in made.tools}
        state.tools = ToolSet(
            {name: tool for name, tool in state.offered.tools.items() if name in names}, tuple(made.tools)
        )
        request = made
    if state.output is not None:
        state.tools = state.output.tools(state.tools)
    state.seen = request.messages
    if not state.begun:
        await begin(state)
    if response is None:
        try:
            response = _counted(state, await _asked(state, request))
        except ModelError as error:
            if not await _shrunk(state, error):
                raise
            return await ask(state)
    if state.output is not None:
        response = state.output.as_text(response)
    told = state.answer is not None
    if guards is not None and guards.filters_text:
        if not told:
            response = replace(response, parts=tuple(await guards.output_parts(response.parts)))
        response = replace(response, parts=tuple([part for part in response.parts if not _is_empty(part)]))
    return response, told


async def _shrunk(state: RunState, error: ModelError) -> bool:
    """Whether the prompt was refused as too long, and memory made it smaller: once in a run."""
    told = state.answer is not None and state.answer.begun
    if state.shrunk or told or state.turn is None or not is_overflow(error):
        return False
    state.shrunk = True
    answer = state.message() if state.parts else None
    if not await state.turn.shrink(state.plan.model, answer):
        return False
    same = state.instructions is state.prompt.instructions
    state.prompt = state.plan.prompt(state.input)
    if same:
        state.instructions = state.prompt.instructions
    if state.step == 1:
        state.report = state.prompt.report
    return True


def is_overflow(error: ModelError) -> bool:
    """Whether a provider said that the prompt is longer than the model can read."""
    return error.status in (None, 400, 413, 422) and _OVERFLOW.search(str(error)) is not None


async def _asked(state: RunState, request: ModelRequest) -> ModelResponse:
    """A model's answer to `request`, or to what processors ask instead after it failed."""
    guards = state.guards
    while True:
        try:
            response = await _call(state, request)
            _learn(state, request, response)
            return response
        except ModelError as error:
            told = state.answer is not None and state.answer.begun
            if guards is None or told or not guards.retries_left:
                raise
            again = await guards.api_error(error, request)
            if again is None:
                raise
            guards.facts.retries += 1
            await asyncio.sleep(again.delay)
            request = again.request or request


async def _call(state: RunState, request: ModelRequest) -> ModelResponse:
    """One model call. Whatever goes wrong in it is a `ModelError`."""
    plan, model, guards = state.plan, state.model, state.guards
    limit = asyncio.timeout(plan.step_timeout)
    if plan.spending is not None:
        plan.spending.ask(1)
    try:
        texts = guards if guards is not None and guards.filters_text else None
        output, emit = state.output, state.live
        whole = output is not None and output.whole(texts is not None)
        if emit is None or state.hold != "none" or whole:
            with chat(model, request, step=state.step) as asked:
                async with limit:
                    response = await model.request(request)
                return asked.answered(response)
        attempt = 0
        if output is not None:
            emit, attempt = output.listen(state, emit), output.attempt
        state.answer = StreamedAnswer(plan.run_id, state.step, emit, texts, attempt=attempt)
        with chat(model, request, stream=True, step=state.step) as asked:
            async with limit:
                response = await state.answer.read(model.stream(request))
            return asked.answered(response)
    except ThreadmarkError:
        raise
    except Exception as error:
        if limit.expired() and isinstance(error, TimeoutError):
            raise TimeUpError from None
        raise ModelError(f"{model.name} failed: {describe_error(error)}") from error
    finally:
        if plan.spending is not None:
            plan.spending.ask(-1)


def _learn(state: RunState, request: ModelRequest, response: ModelResponse) -> None:
    """Let memory compare its count of the prompt with the provider's, if it was sent as it was counted."""
    prompt = state.prompt
    if (
        state.turn is not None
        and state.output is None
        and request.messages is prompt.messages
        and request.instructions is prompt.instructions
        and request.tools is state.plan.tools.definitions
    ):
        state.turn.learn(response.usage)


def _counted(state: RunState, response: ModelResponse) -> ModelResponse:
    """`response` as it is kept, its usage added to the run's."""
    counts = state.model.delegates  # then its usage says how many requests there were, also if none
    if response.model is None or not (response.usage.requests or counts):
        response = replace(
            response,
            model=response.model or state.model.name,
            usage=response.usage if response.usage.requests or counts else response.usage + _ONE_REQUEST,
        )
    state.spend(response.usage)
    return response


def tell_parts(state: RunState, response: ModelResponse) -> None:
    """Tell of an answer that is there as a whole."""
    assert state.live is not None
    answer = StreamedAnswer(state.plan.run_id, state.step, state.live)
    for index, part in enumerate(response.parts):
        answer.tell(index, part)


def _is_empty(part: Part) -> bool:
    """Whether processors left nothing of a part."""
    if isinstance(part, ReasoningPart):
        return not (part.text or part.provider or part.signature)
    return isinstance(part, TextPart) and not (part.text or part.provider)
