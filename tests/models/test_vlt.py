"""VLT's own arithmetic against plain readings of the thesis."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from refseg_cli.models.vlt import VLT, VLTConfig, contrastive_loss, pick_word
from refseg_cli.records import Batch


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def eq_4_8(
    features: list[Tensor],
    images: list[int],
    targets: list[int],
    present: list[bool],
    erased: list[tuple[int, Tensor]],
    tau: float,
) -> float:
    """Thesis Eq. 4.8, word by word, averaged over the images' first expressions that have S_SO and S_DO.

    erased: (expression, feature of its word-erased copy).
    """
    losses = []
    for image in sorted(set(images)):
        init = images.index(image)
        if not present[init]:
            continue
        rows = [n for n, i in enumerate(images) if i == image and present[n] and n != init]
        f_init = unit(features[init])
        so = [unit(features[n]) for n in rows if targets[n] == targets[init]]
        so += [unit(f) for n, f in erased if images[n] == image and present[n] and targets[n] == targets[init]]
        do = [unit(features[n]) for n in rows if targets[n] != targets[init]]
        if not so or not do:
            continue
        inner = 0.0
        for positive in so:
            top = math.exp(float(positive @ f_init) / tau)
            bottom = top + sum(math.exp(float(f @ f_init) / tau) for f in do)
            inner += math.log(top / bottom)
        losses.append(-inner / len(so))
    return sum(losses) / len(losses) if losses else 0.0


def batch_of(images: list[int], targets: list[int], present: list[bool]) -> Batch:
    n = len(images)
    return Batch(
        images=torch.zeros(max(images) + 1, 3, 4, 4),
        tokens=torch.zeros(n, 2, dtype=torch.int64),
        attention_mask=torch.ones(n, 2, dtype=torch.bool),
        image_index=torch.tensor(images),
        has_target=torch.tensor(present),
        target_id=torch.tensor(targets),
    )


CASES = {
    "one image": ([0] * 4, [0, 0, 1, 2], [True] * 4),
    "three images": ([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 2, 3, 2, 4], [True] * 7),
    "an image without companions": ([0, 1, 1, 1], [0, 1, 1, 2], [True] * 4),
    "no S_DO": ([0, 0, 0], [0, 0, 0], [True] * 3),
    "the first has no target": ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 4], [False, True, True, True, True, True]),
    "a no-target companion": ([0, 0, 0, 0], [0, 0, 1, 2], [True, True, True, False]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("copies", [[], [0, 2], [1]])
def test_contrastive_loss_is_eq_4_8(case: str, copies: list[int]) -> None:
    images, targets, present = CASES[case]
    torch.manual_seed(5)
    features = torch.randn(len(images), 3, 2, 2)
    aux = {"mask_feature": features}
    erased = torch.randn(len(copies), 3, 2, 2)
    if copies:
        aux |= {"masked_feature": erased, "masked_rows": torch.tensor(copies)}
    expected = eq_4_8(
        [f.flatten() for f in features],
        images,
        targets,
        present,
        list(zip(copies, (f.flatten() for f in erased), strict=True)),
        tau=0.2,
    )
    assert float(contrastive_loss(aux, batch_of(images, targets, present), 0.2)) == pytest.approx(expected, abs=1e-5)


def test_contrastive_loss_without_any_pair_is_zero_and_harmless() -> None:
    features = torch.randn(2, 3, 2, 2, requires_grad=True)
    loss = contrastive_loss({"mask_feature": features}, batch_of([0, 1], [0, 1], [True, True]), 0.1)
    loss.backward()
    assert float(loss) == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


IMPORTANCE = [1.0, 0.2, 0.6, 5.0]  # the last position is padding, whatever weight it has
DISTRIBUTIONS = {
    "random": [1 / 3, 1 / 3, 1 / 3, 0],
    "threshold": [1 / 2, 0, 1 / 2, 0],  # at least half of the largest weight, 1.0
    "probability": [math.exp(a) / sum(math.exp(b) for b in IMPORTANCE[:3]) for a in IMPORTANCE[:3]] + [0],
}


@pytest.mark.parametrize("how", DISTRIBUTIONS)
def test_pick_word_draws_by_the_thesis_probabilities(how: str) -> None:
    torch.manual_seed(0)
    rows = 20_000
    words = torch.tensor([True, True, True, False]).expand(rows, 4)
    picked = pick_word(torch.tensor(IMPORTANCE).expand(rows, 4), words, how=how, threshold=0.5)
    shares = torch.bincount(picked, minlength=4) / rows
    # Five standard deviations of a share of 20,000 draws are below 0.018.
    torch.testing.assert_close(shares, torch.tensor(DISTRIBUTIONS[how]), atol=0.018, rtol=0)


@pytest.mark.parametrize(("body", "ours", "published"), [("conv7", 16.5, 16.6), ("transformer", 17.0, 17.5)])
def test_table_4_1_sizes(body: str, ours: float, published: float) -> None:
    """The header's claim: with C = 512 both bodies have about the parameters that table 4.1 gives, in millions."""
    vision = {"backbone": "convnet", "backbone_channels": (4, 4, 4, 4, 4), "pretrained": False}
    config = VLTConfig(**vision, body=body)
    model = VLT(config, vocab_size=10, max_tokens=15, size=(416, 416))
    millions = sum(p.numel() for p in model.body.parameters()) / 1e6
    assert round(millions, 1) == ours
    assert abs(millions - published) < 0.04 * published
