"""torch.compile for passes: few sizes, a cache that outlives the process, and what compiling cost and saved.

Compiled code is of one size, and each new one is compiled again. Pictures have a recipe's size, and phrases its number
of tokens; how many there are of either is raised to a power of two.

Axes: i pictures, n phrases of a pass.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

SIZES = 64  # torch compiles no more of a function, and then goes on without; its own limit is 8


@dataclass
class Size:
    """The passes of one size, in seconds. first: with compiling.  later: of all others.  plain: of one uncompiled,
    which is asked beside the second."""

    first: float
    later: float = 0.0
    count: int = 0
    plain: float = 0.0


@dataclass
class Compiling:
    """That a model is to be compiled, and what came of it: filled in pass by pass. sizes: by (pictures, phrases)."""

    sizes: dict[tuple[int, int], Size] = field(default_factory=dict)

    @property
    def won(self) -> float:
        """Seconds; below 0 they are lost."""
        return sum(size.count * size.plain - size.later - size.first for size in self.sizes.values())

    def told(self) -> str:
        """What it cost and what it saved, in one line."""
        sizes, seconds = len(self.sizes), sum(size.first for size in self.sizes.values())
        cost = f"--compile: {sizes} size{'s' if sizes != 1 else ''} of a pass in {seconds:.1f} s"
        again = [size for size in self.sizes.values() if size.count]
        count = sum(size.count for size in again)
        if not count:
            return f"{cost}, and none came again: it did not pay"
        later, plain = sum(size.later for size in again), sum(size.count * size.plain for size in again)
        paid = f"{self.won:.1f} s won" if self.won > 0 else f"it did not pay, {-self.won:.1f} s lost"
        return f"{cost}; {count} more took {later / count:.3g} s each, {plain / count:.3g} s uncompiled: {paid}"


class Compiled:
    """A model that torch.compile has compiled: the same answers up to rounding, and no maps.

    Args:
        made: where it is noted what compiling cost.

    Raises:
        RefsegError: there is no compiler.
    """

    def __init__(self, model: nn.Module, device: torch.device | str, made: Compiling) -> None:
        import torch

        self.model, self.device, self.made = model, torch.device(device), made
        prepare(self.device)
        self.compiled = torch.compile(model, dynamic=False)

    def __call__(self, batch: Batch) -> Prediction:
        """
        Raises:
            RefsegError: the compiler failed.
        """
        n, padded = len(batch), raised(batch)
        size = self.made.sizes.get(key := (len(padded.images), len(padded)))
        if size is None:
            prediction, seconds = self._first(padded)
            self.made.sizes[key] = Size(seconds)
        else:
            prediction, seconds = self._timed(padded, compiled=True)
            size.later, size.count = size.later + seconds, size.count + 1
            if size.count == 1:
                size.plain = self._timed(padded, compiled=False)[1]
        exists = prediction.exists_logit
        return Prediction(prediction.mask_logits[:n], None if exists is None else exists[:n])

    def _first(self, batch: Batch) -> tuple[Prediction, float]:
        from refseg_cli.segmenters.passes import is_lack_of_memory

        try:
            return self._timed(batch, compiled=True)
        except RuntimeError as error:
            if is_lack_of_memory(error):
                raise
            raise compiler_failed(error) from error

    def _timed(self, batch: Batch, *, compiled: bool) -> tuple[Prediction, float]:
        import torch

        begun = time.perf_counter()
        prediction: Prediction = (self.compiled if compiled else self.model)(batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return prediction, time.perf_counter() - begun


def raised(batch: Batch) -> Batch:
    """What a model reads of a batch, with a power of two of pictures and of phrases: the last ones are repeated.

    A clip's stay as they are: its frames are together, and its phrases the same in every window.
    """
    import torch

    def rows(count: int) -> torch.Tensor:
        wanted = count if batch.phrase_index is not None else 1 << (count - 1).bit_length()
        return torch.arange(wanted, device=batch.images.device).clamp_(max=count - 1)

    pictures, phrases = rows(len(batch.images)), rows(len(batch))
    return Batch(
        images=batch.images[pictures],
        tokens=batch.tokens[phrases],
        attention_mask=batch.attention_mask[phrases],
        image_index=batch.image_index[phrases],
        frames=batch.frames,
        phrase_index=batch.phrase_index,
        small=None if batch.small is None else batch.small[pictures],
    )


def prepare(device: torch.device) -> None:
    """Find the compiler, and let other processes find what is compiled: unless TORCHINDUCTOR_CACHE_DIR says where, in
    the user's cache, where torch itself takes a folder of temporary files.

    Raises:
        RefsegError: there is no compiler.
    """
    import torch._dynamo

    if missing := _missing(device):
        raise RefsegError(f"--compile: torch.compile needs {missing}", hint="install it, or omit --compile")
    torch._dynamo.config.recompile_limit = SIZES
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "refseg" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to: torch's own place
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _missing(device: torch.device) -> str | None:
    """What torch.compile would not find on that device."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton_package

        return None if has_triton_package() else "the package triton"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "a C++ compiler, g++ or what CXX names"
    return None


def compiler_failed(error: Exception) -> RefsegError:
    """Pages of a compiler in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    reason = next((line for line in lines if "error: " in line), lines[0])
    return RefsegError(f"--compile: torch.compile failed: {reason}", hint="omit --compile")
