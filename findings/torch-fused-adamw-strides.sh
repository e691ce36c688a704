#!/bin/sh
# torch 2.14.1: on a CPU, AdamW(fused=True) moves weights by other weights' gradients where their strides differ
#
# The kernel goes through weight, gradient and both moments in the order in which each lies in memory and does not look at
# strides. Where a weight is channels_last and its moments are not (or the other way round), each number meets those of
# other places. Nothing fails or warns. On CUDA, differing strides raise "params, grads, exp_avgs, and exp_avg_sqs must have
# same dtype, device, and layout" (pytorch/pytorch issue 110758). Adam does the same. Without `fused` the weights are right.
#
# Input: a convolution, one step, model.to(memory_format=torch.channels_last), and another step. The same happens to whoever
# loads an optimiser's state that was saved before the model became channels_last.
# Expected: the weights of the unfused optimiser, up to rounding; or an error.
#
# Seen with torch 2.14.1, Python 3.11.7, Linux x86-64:
#   AdamW: two steps of 0.1; fused differs from unfused by up to 0.00000002, with channels_last in between by up to 0.15
#   Adam: two steps of 0.1; fused differs from unfused by up to 0.00000002, with channels_last in between by up to 0.15
#
# A way around: torch.empty_like(weight).copy_(moment) for every moment, after the change or after loading.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torch==2.14.1 numpy==2.4.6 || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


def trained(kind, fused, changed):
    """The weights after two steps; `changed`: the model becomes channels_last in between."""
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    optimizer = kind(conv.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        optimizer.zero_grad()
        conv(x).square().mean().backward()
        optimizer.step()
        if changed:
            conv.to(memory_format=torch.channels_last)
    return conv.weight.detach()


alike = []
for kind in (torch.optim.AdamW, torch.optim.Adam):
    differences = []
    for changed in (False, True):
        fused, unfused = (trained(kind, fused, changed) for fused in (True, False))
        differences.append(float((fused - unfused).abs().max()))
    before, after = differences
    print(
        f"{kind.__name__}: two steps of 0.1; fused differs from unfused by up to {before:.8f}, "
        f"with channels_last in between by up to {after:.2f}"
    )
    alike.append(before < 1e-6 and after > 0.01)
sys.exit(0 if all(alike) else 1)
PYTHON
