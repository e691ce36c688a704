"""Decisions: thresholds, the no-target rule, and masks at the picture's own size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Prediction, Thresholds
from refseg_cli.segmenters.decisions import decide
from refseg_cli.segmenters.inference import pick_device, postprocess


def batch(count: int, size: tuple[int, int] = (10, 20)) -> Batch:
    """One picture of `size` squashed into 8 x 8."""
    return Batch(
        images=torch.zeros(1, 3, 8, 8),
        tokens=torch.zeros(count, 2, dtype=torch.int64),
        attention_mask=torch.ones(count, 2, dtype=torch.bool),
        image_index=torch.zeros(count, dtype=torch.int64),
        sizes=torch.tensor([size]),
        content=torch.tensor([[0, 0, 8, 8]]),
    )


def logits(*probabilities: float) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def test_mask_threshold_is_a_probability() -> None:
    prediction = Prediction(logits(0.34, 0.36, 0.6))
    at_default = postprocess(prediction, batch(3), Thresholds())
    assert [d.exists for d in at_default] == [False, False, True]
    at_vlt = postprocess(prediction, batch(3), Thresholds(mask=0.35))
    assert [d.exists for d in at_vlt] == [False, True, True]
    assert at_vlt[1].mask.shape == (10, 20)
    assert at_vlt[1].mask.all()
    assert not at_vlt[0].mask.any()


def test_head_overrules_the_mask_and_empties_it() -> None:
    prediction = Prediction(logits(0.9, 0.9), exists_logit=torch.logit(torch.tensor([0.2, 0.7])))
    absent, present = postprocess(prediction, batch(2), Thresholds())
    assert (absent.exists, absent.mask.any()) == (False, False)
    assert absent.p_target == pytest.approx(0.2)
    assert (present.exists, present.mask.all()) == (True, True)


def test_empty_mask_is_no_target_whatever_the_head_says() -> None:
    prediction = Prediction(logits(0.1), exists_logit=torch.tensor([9.0]))
    (answer,) = postprocess(prediction, batch(1), Thresholds())
    assert not answer.exists


def test_what_just_reaches_a_threshold_is_a_target() -> None:
    masks = np.zeros((3, 2, 4), bool)
    masks[:, 0, :3] = True
    rule = Thresholds(exists=0.5, min_pixels=3)
    answers = decide(masks, [0.5, 0.499, 1.0], rule, has_head=True)
    assert [one.exists for one in answers] == [True, False, True]
    assert [one.exists for one in decide(masks, [0.0] * 3, rule, has_head=False)] == [True] * 3
    assert not any(one.exists for one in decide(masks, [1.0] * 3, replace(rule, min_pixels=4), has_head=True))


def test_fifty_pixel_rule() -> None:
    scores = torch.full((1, 1, 8, 8), -9.0)
    scores[..., 0, 0] = 9.0  # about 1/64 of 200 pixels
    prediction = Prediction(scores)
    assert postprocess(prediction, batch(1), Thresholds())[0].exists
    (answer,) = postprocess(prediction, batch(1), Thresholds(min_pixels=50))
    assert (answer.exists, answer.mask.any()) == (False, False)


def test_each_expression_gets_its_own_pictures_size() -> None:
    two = Batch(
        images=torch.zeros(2, 3, 8, 8),
        tokens=torch.zeros(3, 2, dtype=torch.int64),
        attention_mask=torch.ones(3, 2, dtype=torch.bool),
        image_index=torch.tensor([0, 1, 1]),
        sizes=torch.tensor([[5, 7], [9, 3]]),
        content=torch.tensor([[0, 0, 8, 8], [0, 2, 8, 3]]),
    )
    answers = postprocess(Prediction(logits(0.9, 0.1, 0.9)), two, Thresholds())
    assert [a.mask.shape for a in answers] == [(5, 7), (9, 3), (9, 3)]
    assert [a.exists for a in answers] == [True, False, True]


def test_unusable_device_is_one_clear_error() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(RefsegError, match="device 'cuda:99' cannot be used"):
        pick_device("cuda:99")
    with pytest.raises(RefsegError, match=r"unknown device 'cdua' \(did you mean 'cuda'\?\)"):
        pick_device("cdua")


def test_each_process_of_a_launcher_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *size, device: asked.append(str(device)))
    assert str(pick_device("auto")) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert str(pick_device("auto")) == "cuda:2"
    assert asked == ["cuda:0", "cuda:2"]
