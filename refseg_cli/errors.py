"""The one error type that a user may see, and the exit codes that a shell may test.

Everything below `app.py` raises `RefsegError`; `app.main` turns it into one line on stderr and `ERROR`.
"""

from __future__ import annotations

from collections.abc import Iterable

FOUND = 0  # also: the command did its work
NO_TARGET = 1  # `predict`: nothing in any picture answers to any phrase
TOO_SLOW = 1  # `bench --fail-below`: a row is slower than the baseline allows
ERROR = 2  # any failure, wrong usage included
INTERRUPTED = 130  # Ctrl-C, as shells report it
CLOSED_PIPE = 141  # the reader of stdout went away, as shells report it

LONGEST = 200  # letters of a phrase that a message quotes


class RefsegError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        message: what and where, without a final full stop.
        hint: what to do, or what the choices are; printed after the message.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Unread(RefsegError):
    """An option that nothing reads in this case. option: as typed, e.g. --batch-images."""

    def __init__(self, message: str, *, option: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or f"omit {option}")
        self.option = option


def quoted(text: str) -> str:
    """A user's own words in a message, which stays one that can be read however long they are."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, or is not what it should be, from what reading it raised."""
    if isinstance(error, OSError) and error.strerror:  # str has the number and the name, too
        return error.strerror
    return f"without {error}" if isinstance(error, KeyError) else str(error)


def first_line(error: BaseException) -> str:
    """What an error of a library says, as far as one line goes; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The choice that a mistyped name most probably means, whatever its capitals; None if none is near."""
    from difflib import get_close_matches

    folded = {choice.casefold(): choice for choice in sorted(choices, reverse=True)}
    near = get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def unknown_name(kind: str, name: str, choices: Iterable[object]) -> RefsegError:
    """The error for a name that is not among `choices`, with the nearest one if there is any."""
    names = sorted(map(str, choices))
    near = nearest_name(name, names)
    hint = f"did you mean {near!r}?" if near else f"one of: {', '.join(names)}"
    return RefsegError(f"unknown {kind} {name!r}", hint=hint)
