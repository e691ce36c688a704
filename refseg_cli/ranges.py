"""What numbers a setting may have, written beside it: ``dim: Count = 256``. `config.build` holds them to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated, Any

from refseg_cli.errors import RefsegError

MANY = 1 << 16  # channels, heads, layers or pixels a side: more is a slip of the pen, and takes all memory
UNCOUNTED = 1 << 63  # torch has no whole number from here on


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `least` to `most`, both included unless `above` or `below` says otherwise; never NaN or infinity."""

    least: float = -inf
    most: float = inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if not -inf < value < inf:
            return False
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        words = ["a number"]
        if self.least > -inf:
            words.append(f"{'above' if self.above else 'from'} {self.least:g}")
        if self.most < inf:
            words += ["and" if self.above else "to", *(["below"] if self.below else [])]
            words.append("2^63" if self.most == UNCOUNTED else f"{self.most:.15g}")
        return " ".join(words)


class Filled:
    """Lists that are not empty."""

    def __contains__(self, values: tuple[Any, ...]) -> bool:
        return bool(values)

    def __str__(self) -> str:
        return "a list of one or more"


# Whole numbers
Count = Annotated[int, Range(1, MANY)]
CountFrom0 = Annotated[int, Range(0, MANY)]  # 0 for none, or for what the comment beside it says
CountOrAll = Annotated[int, Range(-1, MANY)]  # -1 for all
Steps = Annotated[int, Range(1, UNCOUNTED, below=True)]  # and epochs, images, phrases
StepsFrom0 = Annotated[int, Range(0, UNCOUNTED, below=True)]
Workers = Annotated[int, Range(0, 1024)]  # processes

Counts = Annotated[tuple[Count, ...], Filled()]

# Others
Number = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, below=True)]


def check_multiple(config: Any, many: str, by: str) -> None:
    """Hold one setting to another: channels that heads share.

    Raises:
        RefsegError: the value of `many` is no multiple of that of `by`.
    """
    total, part = getattr(config, many), getattr(config, by)
    if total % part:
        raise RefsegError(f"{many}: {total} is no multiple of {by}, {part}")
