"""One paper per file. `MODELS` says which there are; a class is imported when it is asked for.

A model has `forward(batch) -> Prediction`, `losses(prediction, batch) -> weighted terms by name` and
`pretrained_modules()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from refseg_cli.config import Recipe, build
from refseg_cli.errors import RefsegError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from refseg_cli.records import Batch, Prediction

ARCHITECTURES = ("align", "vlt")


class Segmenter(Protocol):
    """What the engine asks of a model, besides being an `nn.Module`."""

    def forward(self, batch: Batch) -> Prediction: ...

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]: ...

    def pretrained_modules(self) -> list[nn.Module]: ...


def config_class(arch: str) -> type:
    """The frozen dataclass that an architecture's `[model]` table is read into."""
    return _parts(arch)[0]


def _parts(arch: str) -> tuple[type, type]:
    """(config class, model class) of an architecture; imports torch."""
    if arch == "align":
        from refseg_cli.models.align import Align, AlignConfig

        return AlignConfig, Align
    if arch == "vlt":
        from refseg_cli.models.vlt import VLT, VLTConfig

        return VLTConfig, VLT
    raise unknown_name("architecture", arch, ARCHITECTURES)


def build_model(recipe: Recipe, *, vocab_size: int) -> nn.Module:
    """The recipe's model with fresh (or pretrained) weights.

    Raises:
        RefsegError: unknown architecture, a `[model]` key that it does not read, or sizes that do not fit.
    """
    settings, model_class = _parts(recipe.arch)
    config = build(settings, recipe.model, f"{recipe.arch}: [model]")
    try:
        return model_class(config, vocab_size=vocab_size, max_tokens=recipe.text.max_tokens, size=recipe.data.size)
    except ValueError as error:
        raise RefsegError(f"{recipe.arch}: cannot build the model: {error}", hint="check [model] in the recipe") from error
