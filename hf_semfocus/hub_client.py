"""Errors of the Hub client as one line without the access token.

The client's exceptions hold the request with its Authorization header, and whatever a server or proxy echoed. So
none of them leaves this package: ``HubError`` carries their cleaned text and no reference to them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import huggingface_hub
from huggingface_hub import constants

from .files import no_space

T = TypeVar("T")
LONGEST = 600
HINTS = {
    401: "log in with `hf auth login`, or pass a token that may see and write this repository",
    403: "the token may not do this; it needs write access to this repository",
    404: "it does not exist, or it is private and the token may not see it",
    409: "it exists already, or changed meanwhile; try again",
    412: "the repository changed meanwhile; try again",
    429: "too many requests; try again later",
}


class HubError(RuntimeError):
    """A request to the Hub failed, or a repository is invalid; the message has the action, the answer and a hint.

    Attributes:
        status: HTTP status, or None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


def find_token(token: str | bool | None) -> str | None:
    """The token to send: the one given, the stored one for None or True, none for False.

    Raises:
        ValueError: it holds characters that a header cannot carry; the message does not show the token.
    """
    if isinstance(token, str):
        found = token.strip()
    elif token is False or (token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN):
        return None
    else:
        found = huggingface_hub.get_token() or ""
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise ValueError("the access token holds characters that no token has; expected a token such as hf_...")
    return found or None


def shielded(doing: str, token: str | None, action: Callable[[], T]) -> T:
    """Call the Hub client so that no error or log line holds the token.

    Args:
        doing: the action, for the error message.
        token: removed from messages and from the client's log.
        action: calls the client.

    Raises:
        HubError: in place of whatever ``action`` raised.
    """
    with _clean_log(token):
        try:
            return action()
        except Exception as caught:
            error = _convert(doing, token, caught)
    # outside of the except clause, or the client's exception would stay as __context__
    raise error


def clean(text: str, token: str | None) -> str:
    """The text without the token."""
    return text.replace(token, "[token]") if token else text


def _convert(doing: str, token: str | None, caught: BaseException) -> HubError:
    chain = [caught]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    text = " from ".join(f"{type(error).__name__}: {_one_line(error)}" for error in chain)
    text = clean(text, token)
    text = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    answers = [getattr(error, "response", None) for error in chain]
    status = next((answer.status_code for answer in answers if answer is not None), None)
    hint = HINTS.get(status or 0)
    if any(map(no_space, chain)):
        hint = f"no space left on the disk; free some, or set TMPDIR and HF_HOME (now {constants.HF_HOME}) to another"
    elif hint is None and (status or 500) >= 500 and any(isinstance(e, OSError | _transport_error()) for e in chain):
        hint = "this may pass; trying again is safe"
    return HubError(f"{doing} failed: {text}" + (f"; {hint}" if hint else ""), status)


def _one_line(error: BaseException) -> str:
    return re.sub(r" For more information check: \S+", "", " ".join(str(error).split()))


def _transport_error() -> type[Exception]:
    """Base of the client's HTTP errors, whose library depends on its version."""
    return next(cls for cls in huggingface_hub.errors.HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")


@contextmanager
def _clean_log(token: str | None) -> Iterator[None]:
    """Remove the token from the client's log, which may quote what a server sent."""

    def remove_token(record: logging.LogRecord) -> bool:
        if token in (message := record.getMessage()):
            record.msg, record.args = clean(message, token), ()
        return True

    handlers = [*logging.getLogger("huggingface_hub").handlers, *logging.getLogger().handlers] if token else []
    for handler in handlers:
        handler.addFilter(remove_token)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(remove_token)
