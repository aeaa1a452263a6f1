"""A provider on loopback that plays a script over real HTTP, and the small real model."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from threadmark import ConfigurationError
from threadmark.models import Model, infer_model
from threadmark.models.pydantic_ai import PydanticAIModel

KEY = "sk-test-0123456789abcdef"


class Wire(ThreadingHTTPServer):
    """An OpenAI-compatible server whose answer is a function of the test's choice."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[_Handler], None] = lambda handler: handler.json(text_answer("Hello"))
        self.bodies: list[dict[str, Any]] = []
        self.connections: list[tuple[str, int]] = []
        self.asked = threading.Event()
        """Set by the first request."""
        self.gone = threading.Event()
        """Set when the client has closed a connection that the server was still answering on."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def provider_model(self, name: str = "tiny") -> Any:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIChatModel(name, provider=OpenAIProvider(base_url=self.url, api_key=KEY))

    def model(self) -> PydanticAIModel:
        return PydanticAIModel(self.provider_model, name="openai:tiny")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.wire.connections.append(self.client_address)

    @property
    def wire(self) -> Wire:
        return cast(Wire, self.server)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.wire.bodies.append(json.loads(body))
        self.wire.asked.set()
        self.wire.answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def json(self, value: Any, status: int = 200) -> None:
        self.raw(json.dumps(value).encode(), status)

    def raw(self, body: bytes, status: int = 200, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-should-retry", "false")  # the client's own retries would only cost time
        self.end_headers()
        self.wfile.write(body)

    def start_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def event(self, value: Any) -> None:
        data = f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_stream(self) -> None:
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Drop the connection in the middle of the answer."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def wait_for_hangup(self, seconds: float = 10) -> None:
        """Send nothing until the client closes the connection; sets `gone` when it does."""
        self.connection.settimeout(seconds)
        try:
            if self.connection.recv(1) == b"":
                self.wire.gone.set()
        except ConnectionError:
            self.wire.gone.set()
        except TimeoutError:
            pass
        self.close_connection = True


def text_answer(text: str, **message: Any) -> dict[str, Any]:
    """A whole answer with text, or with the given fields of `message`."""
    calls = "tool_calls" in message
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls" if calls else "stop",
                "message": {"role": "assistant", "content": text or None, **message},
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One event of a streamed answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny-1",
        "choices": [{"index": 0, "finish_reason": finish, "delta": delta}],
    }


def call_chunk(index: int, arguments: str, **start: str) -> dict[str, Any]:
    """A piece of a tool call's arguments; with `id` and `name` it begins the call."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if start:
        call |= {"id": start["id"], "type": "function"}
        call["function"]["name"] = start["name"]
    return chunk(tool_calls=[call])


def play(*events: Any) -> Callable[[_Handler], None]:
    """An answer that streams `events` and ends well."""

    def answer(handler: _Handler) -> None:
        handler.start_stream()
        for event in events:
            handler.event(event)
        handler.end_stream()

    return answer


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = Wire()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def local() -> Model:
    """The small real model. Required in CI; elsewhere its tests are skipped where it is not installed."""
    try:
        return infer_model("local")
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(reason=f"no local model: {error}")
