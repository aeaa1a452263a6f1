"""What went wrong at a provider, as `ModelError`: bounded, and without any key."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

from .._errors import ModelError

LONGEST: Final = 500
"""Most characters of a provider's own words that a message quotes."""

_HIDDEN: Final = "[hidden]"
_SECRET_NAMES: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
# Keys as the large providers write them, and whatever follows an authorization scheme.
_SECRETS: Final = re.compile(
    r"\b(?:(?:sk|pk|rk|gsk|xai|hf|r8|csk|fw|pplx|nvapi|ghp|github_pat)[-_]|AIza)[-_A-Za-z0-9]{12,}"
    r"|(?<=[Bb]earer )\S+|(?<=[Bb]asic )\S+|(?<=[?&]key=)[^&\s\"']+"
)


def model_error(name: str, error: Exception, *secrets: str) -> ModelError:
    """The error to raise `from error`. `secrets` are cut out of the text, as are keys in the environment."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        detail = _body(getattr(error, "body", None)) or str(error)
        return ModelError(f"model {name!r} answered HTTP {status}: {_clean(detail, secrets)}", status=status)
    detail = str(error) or type(error).__name__
    members = getattr(error, "exceptions", None)
    cause = error.__cause__
    if members:
        detail += ": " + "; ".join(str(member) for member in members)
    elif cause is not None and str(cause) not in detail:
        detail += f" ({type(cause).__name__}: {cause})"
    return ModelError(f"model {name!r} failed: {_clean(detail, secrets)}")


def _body(body: object) -> str:
    """The readable part of an error's body, which providers wrap in `error`, `message` or both."""
    while isinstance(body, dict):
        inner: Any = body.get("error") or body.get("message")
        if not inner:
            return json.dumps(body, ensure_ascii=False, default=str)
        body = inner
    return "" if body is None else str(body)


def _clean(text: str, secrets: tuple[str, ...]) -> str:
    known = {secret for secret in secrets if len(secret) >= 4}
    known |= {value for key, value in os.environ.items() if len(value) >= 8 and _SECRET_NAMES.search(key)}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = " ".join(_SECRETS.sub(_HIDDEN, text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
