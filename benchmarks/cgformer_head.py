"""What CGFormer's mask head and fusions cost as the official code runs them, and as models/cgformer.py does.

    python benchmarks/cgformer_head.py --out benchmarks/cgformer_head.json

Two forms of the same sums, with the same random weights on the same random maps, for one phrase in float32:

    official   upsample, then convolve; project 512 channels to 512 at full size, then multiply by the token's kernel
    ours       convolve, then upsample; fold the projection into the kernel

Floating-point operations are torch's own count (FlopCounterMode, 2 for a multiply-add, convolutions and matrix products
alone). Times are the median over rounds of CPU seconds of one
thread, which other programs on the machine disturb little. `difference` is the largest difference of the two results
over the standard deviation of the official one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from programs import machine, options_of, tell
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from refseg_cli.layers.upsampling import JoinFiner
from refseg_cli.models.cgformer import CGFormer, CGFormerConfig, MaskHead
from refseg_cli.records import Batch
from refseg_cli.segmenters.memory import keep_freed_memory

DIM = CGFormerConfig().dim
BASE_CHANNELS = (128, 256, 512, 1024)  # of Swin-B


def official_fuse(fuse: JoinFiner, coarser: Tensor, finer: Tensor) -> Tensor:
    y = F.interpolate(coarser, finer.shape[-2:], mode="bilinear", align_corners=True)
    y = torch.relu(fuse.norm1(fuse.conv1(torch.cat([y, finer], 1))))
    return torch.relu(fuse.norm2(fuse.conv2(y)))


def official_head(head: MaskHead, x: Tensor, referent: Tensor, size: tuple[int, int]) -> Tensor:
    for conv, norm in ((head.conv1, head.norm1), (head.conv2, head.norm2)):
        y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = torch.relu(norm(conv(y)))
    x, kernel = head.project(x), head.kernel(referent)
    n, c, h, w = x.shape
    weights, bias = kernel[:, :-1, None, None], kernel[:, -1]
    raw = F.conv2d(x.reshape(1, n * c, h, w), weights, bias, padding=1, groups=n).transpose(0, 1)
    return F.interpolate(raw, size, mode="bilinear", align_corners=True)


@dataclass
class Part:
    """A part of the model in both forms.  inputs: their shapes."""

    official: Callable[..., Tensor]
    ours: torch.nn.Module
    inputs: tuple[tuple[int, ...], ...]
    size: tuple[int, int] | None = None

    def forms(self) -> dict[str, Callable[..., Tensor]]:
        size = () if self.size is None else (self.size,)
        return {
            "official": lambda *tensors: self.official(self.ours, *tensors, *size),
            "ours": lambda *tensors: self.ours(*tensors, *size),
        }


def parts(side: int) -> dict[str, Part]:
    """The head and the three fusions at side x side pixels, with lively batch statistics."""
    grids = [(side // s, side // s) for s in (4, 8, 16, 32)]
    found = {"head": Part(official_head, MaskHead(DIM, dims=(DIM, DIM)), ((1, DIM, *grids[0]), (1, DIM)), (side, side))}
    coarser = BASE_CHANNELS[-1]
    for k in (2, 1, 0):
        fuse = JoinFiner(coarser, BASE_CHANNELS[k], dim=DIM, bias=True)
        found[f"fusion {3 - k}"] = Part(
            official_fuse, fuse, ((1, coarser, *grids[k + 1]), (1, BASE_CHANNELS[k], *grids[k]))
        )
        coarser = DIM
    for part in found.values():
        for module in part.ours.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(0.2)  # type: ignore[union-attr]
    return found


def flops(call: Callable[[], Any]) -> float:
    """Giga of them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return round(counter.get_total_flops() / 1e9, 1)


def measure(part: Part, *, rounds: int) -> dict[str, Any]:
    """Count both forms, and time them in turn."""
    part.ours.eval()
    tensors = [torch.randn(shape) for shape in part.inputs]
    times: dict[str, list[float]] = {form: [] for form in part.forms()}
    outputs: dict[str, Tensor] = {}
    for _ in range(rounds):
        for form, call in part.forms().items():
            begun = time.process_time()
            outputs[form] = call(*tensors)
            times[form].append(time.process_time() - begun)
    difference = (outputs["ours"] - outputs["official"]).abs().max() / outputs["official"].std()
    meta = [tensor.to("meta") for tensor in tensors]
    part.ours.to("meta")
    result: dict[str, Any] = {
        form: {"gflop": flops(lambda call=call: call(*meta)), "cpu_seconds": round(median(times[form]), 2)}
        for form, call in part.forms().items()
    }
    return {**result, "difference": float(f"{difference:.1e}")}


def whole_model(side: int) -> dict[str, float]:
    """A forward pass of our form for one image with one phrase of 20 tokens; BERT does not run on the meta device."""
    config = CGFormerConfig(pretrained=False, text_pretrained=False)
    model = CGFormer(config, vocab_size=30_522, max_tokens=20, size=(side, side)).eval()
    words = torch.ones(1, 20, dtype=torch.long)
    batch = Batch(torch.randn(1, 3, side, side), words, words == 1, torch.zeros(1, dtype=torch.long))
    model(batch)
    begun = time.process_time()
    model(batch)
    seconds = time.process_time() - begun
    return {"gflop": flops(lambda: model(batch)), "cpu_seconds": round(seconds, 2)}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--side", type=int, default=480, help="height and width of the network input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        model = whole_model(arguments.side)
        results = {name: measure(part, rounds=arguments.rounds) for name, part in parts(arguments.side).items()}
    saved = {key: sum(part["official"][key] - part["ours"][key] for part in results.values()) for key in model}
    result = {
        "benchmark": "cgformer_head",
        **machine("torch"),
        "threads": 1,
        "side": arguments.side,
        "rounds": arguments.rounds,
        "results": results,
        "model": {
            "ours": model,
            "official form, by the differences above": {k: round(model[k] + saved[k], 2) for k in model},
        },
    }
    tell(result, arguments.out)


if __name__ == "__main__":
    main()
