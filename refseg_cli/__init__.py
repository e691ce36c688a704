"""refseg: referring expression segmentation from the command line, and from Python: `refseg_cli.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from refseg_cli.library import Model

__version__ = "0.1.0"
__date__ = "2026-11-21"  # of that version, for the man pages


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    threshold: float | None = None,
    no_target_threshold: float | None = None,
    threads: int = 0,
) -> Model:
    """A model that is called with pictures and phrases: see `refseg_cli.library.Model` and docs/python.md.

    Args:
        model: a checkpoint folder, a training run, what `refseg export` wrote, `hf:ORG/NAME`, a model of transformers,
            or a bundled one by name, `photos` or `scenes`; None for `photos`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; an exported model runs on the CPU.
        threshold: probability in [0, 1] above which a pixel belongs to the mask; None for the model's own.
        no_target_threshold: probability in [0, 1] from which on a target is reported; None for the model's own.
        threads: of the arithmetic; 0 for as many as the library at work takes by itself.

    Raises:
        refseg_cli.errors.RefsegError: no such model or device, a damaged file, or a threshold that is no probability.
    """
    from refseg_cli.library import load_model

    return load_model(
        model, device=device, threshold=threshold, no_target_threshold=no_target_threshold, threads=threads
    )
