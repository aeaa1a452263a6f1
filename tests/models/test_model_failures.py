"""What a failure's message may say."""

from __future__ import annotations

import pytest

from threadmark.models._failures import LONGEST, model_error


class Refused(Exception):
    def __init__(self, body: object) -> None:
        super().__init__("refused")
        self.status_code, self.body = 403, body


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "AIzaSyA1234567890abcdef",
        "gsk_abcdefghijklmnop1234",
        "xai-abcdefghijklmnop",
        "hf_abcdefghijklmnopqrst",
    ],
)
def test_keys_are_hidden_by_their_form(secret: str) -> None:
    """Even one that this process never knew."""
    message = str(model_error("p:m", Refused({"error": {"message": f"bad key {secret}, sorry"}})))
    assert message == "model 'p:m' answered HTTP 403: bad key [hidden], sorry"


def test_keys_are_hidden_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a header, in a URL, in this process's environment, or named by the model."""
    monkeypatch.setenv("ODD_SERVICE_TOKEN", "plain-words-here")
    text = "Bearer abc/def= ?key=12345&x plain-words-here hunter22"
    message = str(model_error("p:m", ValueError(text), "hunter22"))
    assert message == "model 'p:m' failed: Bearer [hidden] ?key=[hidden]&x [hidden] [hidden]"


def test_ordinary_words_are_left_alone() -> None:
    """Long words and model names are not keys."""
    text = "skeletonization of claude-sonnet-4-5-20250929 is not supported"
    assert str(model_error("p:m", ValueError(text))) == f"model 'p:m' failed: {text}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"message": "b"}, "b"),
        ({"error": "c"}, "c"),
        ({"code": 7}, '{"code": 7}'),
        ("plain", "plain"),
        (["d"], "['d']"),
        (None, "refused"),
    ],
)
def test_the_body_is_unwrapped(body: object, said: str) -> None:
    """Providers wrap their message in different ways."""
    error = model_error("p:m", Refused(body))
    assert (str(error), error.status) == (f"model 'p:m' answered HTTP 403: {said}", 403)


def test_a_long_body_is_cut() -> None:
    """A page of HTML does not fill the log."""
    message = str(model_error("p:m", Refused("x" * 10_000)))
    assert len(message) < LONGEST + 60
    assert message.endswith("…")


def test_a_cause_and_the_members_of_a_group_are_told() -> None:
    """A bare "Connection error" helps nobody."""
    error = RuntimeError("Connection error.")
    error.__cause__ = OSError("name not known")
    assert str(model_error("p:m", error)) == (
        "model 'p:m' failed: Connection error. (OSError: name not known)"
    )
    group = ExceptionGroup("all failed", [ValueError("one"), ValueError("two")])
    assert str(model_error("p:m", group)).endswith("one; two")
    assert str(model_error("p:m", KeyError())) == "model 'p:m' failed: KeyError"
