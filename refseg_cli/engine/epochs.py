"""The order of a training epoch: a function of (seed, epoch) alone."""

from __future__ import annotations

import numpy as np

from refseg_cli.config import Recipe
from refseg_cli.data import loader
from refseg_cli.data.clips import Clips
from refseg_cli.data.loader import Step
from refseg_cli.data.shards import Shards
from refseg_cli.data.windows import drawn_windows


def epoch_parts(shards: Shards, recipe: Recipe, epoch: int, processes: int) -> list[tuple[Step, ...]]:
    """Each micro-batch of an epoch as what `processes` of them take of it.

    Raises:
        RefsegError: a recipe for clips, and shards of pictures.
    """
    config, data, rng = recipe.train, recipe.data, np.random.default_rng((recipe.train.seed, epoch))
    if data.clip_frames:
        batch = max(1, config.batch_images // data.clip_frames)
        frames, phrases = data.clip_frames, data.phrases_per_image
        steps = drawn_windows(Clips(shards), batch=batch, frames=frames, phrases=phrases, rng=rng)
    elif config.same_object >= 0:
        steps = loader.contrastive_steps(
            shards.target_ids(),
            shards.row_groups(),
            batch=config.batch_images,
            same=config.same_object,
            different=round(config.different_object * config.batch_images),
            rng=rng,
        )
    else:
        steps = loader.grouped_steps(
            shards.expression_counts,
            shards.row_groups(),
            batch_images=processes * config.batch_images,
            phrases=data.phrases_per_image,
            rng=rng,
        )
        return [loader.dealt(step, processes) for step in steps]
    # Each process has a batch of its own: clips, and what is contrasted, stay together.
    return [tuple(steps[i : i + processes]) for i in range(0, len(steps), processes)]
