"""VLT for clips: the queries are a clip's, everything else a frame's; on pictures it is VLT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from variants import vlt_clips as variant

from refseg_cli.config import build
from refseg_cli.errors import RefsegError
from refseg_cli.models.vlt import VLT, VLTConfig, contrastive_loss
from refseg_cli.models.vlt_clips import VLTClips, VLTClipsConfig, within
from refseg_cli.records import Batch

SIZE, WORDS = (64, 64), 12


def model_of(**changes: Any) -> VLTClips:
    torch.manual_seed(0)
    config = build(VLTClipsConfig, {**variant.TINY, **changes}, "test")
    model = VLTClips(config, vocab_size=WORDS, max_tokens=6, size=SIZE)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def clips(lengths: tuple[int, ...] = (2, 1), frames: int = 3) -> Batch:
    """Clips with as many phrases as `lengths` says, each."""
    torch.manual_seed(1)
    phrases = sum(lengths)
    tokens = torch.randint(1, WORDS, (phrases, 6))
    keep = torch.arange(6) < torch.randint(3, 7, (phrases, 1))
    index, images, first = [], [], 0
    for clip, count in enumerate(lengths):
        for frame in range(frames):
            index += range(first, first + count)
            images += [clip * frames + frame] * count
        first += count
    rows = torch.tensor(index)
    return Batch(
        images=torch.randn(len(lengths) * frames, 3, *SIZE),
        tokens=tokens[rows],
        attention_mask=keep[rows],
        image_index=torch.tensor(images),
        frames=frames,
        phrase_index=rows,
    )


def part(batch: Batch, images: list[int]) -> Batch:
    """Some images as pictures."""
    rows = torch.cat([torch.nonzero(batch.image_index == image)[:, 0] for image in images])
    numbers = torch.cat([torch.full_like(torch.nonzero(batch.image_index == m)[:, 0], k) for k, m in enumerate(images)])
    return Batch(batch.images[images], batch.tokens[rows], batch.attention_mask[rows], numbers)


@pytest.mark.parametrize("changes", [{}, {"temporal_shift": 2}])
def test_on_pictures_it_is_vlt(changes: dict[str, Any]) -> None:
    ours = model_of(**changes)
    theirs = VLT(build(VLTConfig, variant.TINY, "test"), vocab_size=WORDS, max_tokens=6, size=SIZE).eval()
    theirs.load_state_dict(ours.state_dict())  # the same weights, name by name
    pictures = part(clips(), [0, 1, 2, 3])
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures).mask_logits, theirs(pictures).mask_logits)
        one_frame = replace(pictures, phrase_index=torch.arange(len(pictures)))
        torch.testing.assert_close(ours(one_frame).mask_logits, theirs(pictures).mask_logits)


def test_a_clip_has_one_set_of_queries_and_a_picture_its_own() -> None:
    model, batch = model_of(), clips((2,))
    attention = model(batch).aux["query_attention"].unflatten(0, (3, 2))  # (f, p, q, t)
    torch.testing.assert_close(attention[0], attention[1])
    torch.testing.assert_close(attention[0], attention[2])
    alone = model(part(batch, [0, 1, 2])).aux["query_attention"].unflatten(0, (3, 2))
    assert not torch.allclose(alone[0], alone[1])


def test_the_queries_are_those_of_the_average_feature() -> None:
    """Thesis 4.3.5, step by step: QGM of the mean F_vr, everything else of the frame."""
    model, batch = model_of(), clips((2,))
    with torch.inference_mode():
        vision = model.vision(batch.images)
        language = model.language(batch.tokens, batch.attention_mask)
        memory = model.body.encode(model.fusion(vision, language, batch.image_index))
        guide = model.body.queries.guide(vision.mean(0, keepdim=True)).expand(len(batch), -1, -1)
        F_q, A_qd, _ = model.body.queries(guide, language)
        expected = model.body.respond(memory, F_q, A_qd, None)
        found = model(batch)
    torch.testing.assert_close(found.aux["mask_feature"], expected.mask_feature)


@pytest.mark.parametrize("changes", [{}, {"temporal_shift": 2}])
def test_the_shift_alone_tells_a_clip_from_its_reverse(changes: dict[str, Any]) -> None:
    """An average has no direction."""
    model, batch = model_of(**changes), clips((2,))
    backwards = replace(batch, images=batch.images.flip(0))
    with torch.inference_mode():
        forth, back = (model(b).mask_logits.unflatten(0, (3, 2)) for b in (batch, backwards))
    assert torch.allclose(forth, back.flip(0), atol=1e-5) == (not changes)


@pytest.mark.parametrize("changes", [{}, {"backbone": "video_swin_mini", "dropout": 0.0}, {"temporal_shift": 2}])
def test_clips_of_a_batch_do_not_know_each_other(changes: dict[str, Any]) -> None:
    model, both = model_of(**changes), clips((2, 1))
    first = replace(
        part(both, [0, 1, 2]), frames=3, phrase_index=both.phrase_index[:6] if both.phrase_index is not None else None
    )
    with torch.inference_mode():
        torch.testing.assert_close(model(both).mask_logits[:6], model(first).mask_logits, atol=1e-5, rtol=1e-4)


def test_language_is_read_once_a_phrase() -> None:
    model, batch = model_of(), clips((2, 1))
    read: list[int] = []
    model.language.register_forward_hook(lambda m, inputs, out: read.append(len(inputs[0])))
    model.body.queries.register_forward_hook(lambda m, inputs, out: read.append(len(inputs[0])))
    model(batch)
    assert read == [3, 3]
    assert len(batch) == 9


def test_frames_within_reach() -> None:
    near = within(8, 4, 2, device=torch.device("cpu"))
    for i in range(8):
        for j in range(8):
            assert bool(near[i, j]) == (i // 4 == j // 4 and abs(i - j) <= 2)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_other_objects_of_neighbouring_frames_are_negatives(reach: int) -> None:
    """Eq. 4.8, in loops."""
    torch.manual_seed(2)
    batch = replace(
        clips((3,), frames=4),
        # phrases 0 and 1 mean thing 7, phrase 2 another one, which frame 1 does not show
        target_id=torch.tensor([7, 7, 8, 7, 7, 9, 7, 7, 8, 7, 7, 8]),
        has_target=torch.tensor([True] * 5 + [False] + [True] * 6),
    )
    features = torch.randn(12, 2, 3, 3)
    near = within(4, 4, reach, device=torch.device("cpu"))
    found = contrastive_loss({"mask_feature": features}, batch, 0.2, near)
    f = F.normalize(features.flatten(1), dim=1)
    assert batch.target_id is not None
    assert batch.has_target is not None
    losses: list[Tensor] = []
    for frame in range(4):
        init = 3 * frame
        close = [row for row in range(12) if abs(row // 3 - frame) <= reach and batch.has_target[row]]
        others = [row for row in close if batch.target_id[row] != batch.target_id[init]]
        if others:
            score = (f @ f[init] / 0.2).exp()
            losses.append(-torch.log(score[init + 1] / (score[init + 1] + score[others].sum())))
    torch.testing.assert_close(found, torch.stack(losses).mean())
    assert len(losses) == (3 if reach == 0 else 4)


def test_both_parts_learn_from_neighbours() -> None:
    model, batch = model_of(contrast="cl").train(), clips((3,), frames=3)
    target = torch.tensor([7, 7, 8] * 3)
    labelled = replace(batch, target_id=target, has_target=torch.ones(9, dtype=torch.bool))
    prediction = model(labelled)
    reached = model.contrast(prediction.aux, labelled)
    assert reached > contrastive_loss(prediction.aux, labelled, model.config.temperature)


@pytest.mark.parametrize("changes", [{"body": "conv7"}, {"queries": "learned"}])
def test_without_the_query_generation_module_there_is_nothing_to_share(changes: dict[str, Any]) -> None:
    from refseg_cli.config import Recipe
    from refseg_cli.models import build_model

    with pytest.raises(RefsegError, match="clips need body"):
        build_model(Recipe("vlt-clips", model={**variant.TINY, **changes}), vocab_size=WORDS)
