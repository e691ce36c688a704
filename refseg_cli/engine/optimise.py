"""How weights move: the optimiser's groups, the learning rate's course, and where weights come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refseg_cli.config import TrainConfig
from refseg_cli.data.text import Tokenizer, read_glove
from refseg_cli.errors import RefsegError

FUSED = ("cpu", "cuda")  # devices where one kernel moves all weights of a group


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW; pretrained encoders at `backbone_lr` times the rate, no decay on norms, biases, embeddings."""
    pretrained = {id(p) for module in model.pretrained_modules() for p in module.parameters()}  # type: ignore[operator]
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in pretrained, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    settings = []
    for (is_pretrained, decayed), parameters in sorted(groups.items()):
        peak = config.lr * (config.backbone_lr if is_pretrained else 1.0)
        decay = config.weight_decay if decayed else 0.0
        settings.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # One kernel does not take pieces of weights and whole ones at once.
    fused = not config.shard_model and all(parameter.device.type in FUSED for parameter in model.parameters())
    return kind(settings, betas=config.betas, eps=config.eps, amsgrad=config.amsgrad, fused=fused)


def take_moments(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], fitted: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Take over the state of an optimiser that moved the same weights, all of them whole.

    Which kernels move them stays as it is. The fused one of CPUs goes through weights and moments in memory order,
    whatever their strides (findings/torch-fused-adamw-strides.sh), so that they have to lie alike.

    Args:
        fitted: (moment, weight) -> the moment as the weight lies.

    Raises:
        KeyError, ValueError: the state is of other groups of weights.
    """
    kernels = [{how: group[how] for how in ("fused", "foreach")} for group in optimizer.param_groups]
    groups = [{**group, **own} for group, own in zip(state["param_groups"], kernels, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if name != "step":
                moments[name] = fitted(value, parameter)


def moving_average(model: nn.Module, config: TrainConfig) -> AveragedModel | None:
    """Of the weights, as far as `train.ema` asks for one."""
    if not config.ema:
        return None
    # Batch statistics are averaged too: those of today's weights do not fit weights that lag behind.
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)


def schedule(step: int, total: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Factor on the peak learning rate for optimiser step `step` of `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    if config.schedule == "poly":
        return max(0.0, 1 - done) ** config.power
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.schedule == "step":
        epoch = step // max(1, math.ceil(steps_per_epoch / config.accumulate))
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return 1.0


@runtime_checkable
class Resampled(Protocol):
    """A module with weights for one input size, which it can make of those for another."""

    def resampled(self, source: Any) -> dict[str, Tensor]:
        """Its tensors, by their names in it, from a module of its own class."""


def take_weights(model: nn.Module, source: nn.Module, *, unknown: int | None = None) -> int:
    """Copy every tensor of `source` that `model` has by the same name and shape, counters aside; how many.

    What depends on the input size is resampled where a module knows how (`Resampled`).
    An embedding of more words than the source's has its rows first; the other words begin as the one for unknown words.

    The encoders of two architectures stand at different places in them, so they are matched by their order in
    `pretrained_modules` too: a small LAVT starts from the encoders of a small `align`.

    unknown: the row of unknown words; None where no vocabulary grows.

    Raises:
        RefsegError: none fits.
    """
    given = dict(source.state_dict())
    places = {id(module): name for name, module in model.named_modules()}
    for ours, theirs in zip(model.pretrained_modules(), source.pretrained_modules(), strict=False):  # type: ignore[operator]
        given |= {f"{places[id(ours)]}.{key}": tensor for key, tensor in theirs.state_dict().items()}
    wanted = model.state_dict()
    sources = dict(source.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, Resampled) and isinstance(sources.get(name), type(module)):
            given |= {f"{name}.{key}": tensor for key, tensor in module.resampled(sources[name]).items()}
    if unknown is not None:
        for name in (f"{n}.weight" for n, module in model.named_modules() if isinstance(module, nn.Embedding)):
            if name in given and given[name].shape[1:] == wanted[name].shape[1:]:
                more = max(0, len(wanted[name]) - len(given[name]))
                given[name] = torch.cat([given[name], given[name][unknown].expand(more, -1)])
    taken = {k: v for k, v in given.items() if v.ndim and k in wanted and wanted[k].shape == v.shape}
    if not taken:
        raise RefsegError(
            "--init: no weight has the name and shape of one in this model", hint="same sizes in [model]?"
        )
    model.load_state_dict(taken, strict=False)
    return len(taken)


def take_vectors(model: nn.Module, file: Path, tokenizer: Tokenizer) -> None:
    """Begin the model's first embedding with GloVe's vectors of the tokenizer's words.

    Raises:
        RefsegError: the file cannot be read, or its vectors are of another length.
    """
    table, _ = read_glove(file, tokenizer)
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None or embedding.weight.shape != table.shape:
        wanted = None if embedding is None else tuple(embedding.weight.shape)
        raise RefsegError(
            f"{file}: vectors {tuple(table.shape)} do not fit the embedding {wanted}",
            hint="set model.embedding_dim to the vectors' length",
        )
    with torch.no_grad():
        embedding.weight.copy_(table)
