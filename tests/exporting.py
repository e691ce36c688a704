"""Exports of one model whose slow part, the same for all, is done once: tracing it, and converting the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from refseg_cli.engine import artifacts, export


@contextmanager
def traced_once() -> Iterator[None]:
    """Meanwhile every export takes the graph that the first one traced."""
    convert = first(artifacts.FORMS["onnx"].make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", first(export.trace))
        patch.setitem(artifacts.FORMS, "onnx", replace(artifacts.FORMS["onnx"], make=lambda p: deepcopy(convert(p))))
        patch.setattr(export, "SPLIT", replace(artifacts.SPLIT, make=lambda p: deepcopy(convert(p))))
        yield


def first(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the function returned when it was called first."""
    known: list[Any] = []

    def called(*given: Any) -> Any:
        if not known:
            known.append(function(*given))
        return known[0]

    return called
