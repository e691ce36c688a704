"""One paper per file; `MODELS` says which there are.

A model has `forward(batch) -> Prediction`, `losses(prediction, batch) -> weighted terms by name` (their sum is the
training loss) and `pretrained_modules() -> modules that a recipe may train at a lower rate`.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import nn

from refseg_cli.config import Recipe, build
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.models.align import Align, AlignConfig
from refseg_cli.models.asda import ASDA, ASDAConfig
from refseg_cli.models.caris import CARIS, CARISConfig
from refseg_cli.models.cgformer import CGFormer, CGFormerConfig
from refseg_cli.models.cris import CRIS, CRISConfig
from refseg_cli.models.deris import DeRIS, DeRISConfig
from refseg_cli.models.isfp import ISFP, ISFPConfig
from refseg_cli.models.jmceln import JMCELN, JMCELNConfig
from refseg_cli.models.lavt import LAVT, LAVTConfig
from refseg_cli.models.m3att import M3Att, M3AttConfig
from refseg_cli.models.rela import ReLA, ReLAConfig
from refseg_cli.models.vlt import VLT, VLTConfig
from refseg_cli.models.vlt_clips import VLTClips, VLTClipsConfig

# name -> (what its [model] table is read into, the module); the names stand in config.ARCHITECTURES too, which the
# shell reads without importing torch.
MODELS: dict[str, tuple[type, type[nn.Module]]] = {
    "align": (AlignConfig, Align),
    "asda": (ASDAConfig, ASDA),
    "caris": (CARISConfig, CARIS),
    "cgformer": (CGFormerConfig, CGFormer),
    "cris": (CRISConfig, CRIS),
    "deris": (DeRISConfig, DeRIS),
    "isfp": (ISFPConfig, ISFP),
    "jmceln": (JMCELNConfig, JMCELN),
    "lavt": (LAVTConfig, LAVT),
    "m3att": (M3AttConfig, M3Att),
    "rela": (ReLAConfig, ReLA),
    "vlt": (VLTConfig, VLT),
    "vlt-clips": (VLTClipsConfig, VLTClips),
}

STRIDE = 32  # of the coarsest map, in pixels: sides have at least as many
# What sides are multiples of, where a doubled map meets a finer one, and the cells that the coarsest map has at least,
# where an instance norm takes the mean over them; (1, 1) for the others.
SIDES = {"cgformer": (16, 2), "cris": (32, 1), "isfp": (32, 1), "lavt": (1, 2), "rela": (1, 2)}


def config_class(arch: str) -> type:
    """The frozen dataclass that an architecture's `[model]` table is read into."""
    if arch not in MODELS:
        raise unknown_name("architecture", arch, MODELS)
    return MODELS[arch][0]


def build_model(recipe: Recipe, *, vocab_size: int) -> nn.Module:
    """The recipe's model with fresh (or pretrained) weights.

    Raises:
        RefsegError: unknown architecture, a `[model]` key that it does not read, or sizes that do not fit.
    """
    config: Any = build(config_class(recipe.arch), recipe.model, f"{recipe.arch}: [model]")
    _check_size(recipe)
    model = MODELS[recipe.arch][1]
    try:
        return model(config, vocab_size=vocab_size, max_tokens=recipe.text.max_tokens, size=recipe.data.size)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            raise
        raise RefsegError(
            f"{recipe.arch}: cannot build the model: {error}", hint="check [model] in the recipe"
        ) from error


def _check_size(recipe: Recipe) -> None:
    step, cells = SIDES.get(recipe.arch, (1, 1))
    size = recipe.data.size
    if all(side >= STRIDE and not side % step for side in size) and prod(-(-side // STRIDE) for side in size) >= cells:
        return
    multiples = f", multiples of {step}" if step > 1 else ""
    larger = ", and one that is longer" if cells > 1 else ""
    raise RefsegError(
        f"data.size: {list(size)}: {recipe.arch} takes sides of at least {STRIDE} pixels{multiples}{larger}"
    )
