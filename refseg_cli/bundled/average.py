"""The mean of two runs' weights, as a run: `python -m refseg_cli.bundled.average RUN RUN OUT`.

A maintainer's script. Of runs that started from the same weights the mean is often better than either (Wortsman et al.,
Model soups, ICML 2022, arXiv 2203.05482). Its thresholds are neither's: `refseg calibrate` finds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from refseg_cli import checkpoint
from refseg_cli.errors import RefsegError


def average(first: str, second: str, out: str) -> None:
    """Write OUT/best: the second run with the mean of its and the first one's weights, without scores.

    Words that the second run has learned on top of the first one's stay as it has them.

    Raises:
        RefsegError: the runs are of different models or vocabularies.
    """
    one, two = checkpoint.load(first), checkpoint.load(second)
    theirs, ours = one.model.state_dict(), two.model.state_dict()
    embeddings = {f"{name}.weight" for name, module in two.model.named_modules() if isinstance(module, nn.Embedding)}
    common = {name: v[: len(theirs[name])] if name in embeddings & theirs.keys() else v for name, v in ours.items()}
    same = {name: v.shape for name, v in theirs.items()} == {name: v.shape for name, v in common.items()}
    if not same or not one.tokenizer.pipeline.get_vocab().items() <= two.tokenizer.pipeline.get_vocab().items():
        raise RefsegError(f"{first} and {second}: different models or vocabularies, which have no mean")
    with torch.no_grad():
        for name, value in common.items():
            if value.is_floating_point():
                value.add_(theirs[name]).mul_(0.5)
    blind = bool(one.info.get(checkpoint.BLIND) or two.info.get(checkpoint.BLIND))
    info = {**{key: two.info[key] for key in ("step", "epoch", "data")}, "scores": {}, checkpoint.BLIND: blind}
    checkpoint.save(Path(out) / "best", two.model, two.recipe, two.tokenizer, info=info)


if __name__ == "__main__":
    average(sys.argv[1], sys.argv[2], sys.argv[3])
