"""Zero-shot families: each equals the library's own call for one phrase and one picture, and encodes a picture once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image
from torch import nn

from refseg_cli.data import masks
from refseg_cli.errors import RefsegError
from refseg_cli.segmenters import sam3
from refseg_cli.segmenters.base import Found
from refseg_cli.segmenters.boxes import Boxes, BoxPrompted, _inside
from refseg_cli.segmenters.pretrained import Pretrained, kept
from refseg_cli.segmenters.zero_shot import open_zero_shot

Tiny = Callable[[str], str]
FAMILIES = ("clipseg", "sam3", "sam3_lite_text", "grounding-dino", "mm-grounding-dino", "owlv2", "florence2")
SCORED = tuple(family for family in FAMILIES if family != "florence2")
DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2")
PHRASES = ("two people on the left", "a zebra", "Mr. Smith", "kid in blue? yes")
LONG = "the very " * 150
PIXELS = np.random.default_rng(0).integers(0, 255, (46, 70, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
IMAGE = torch.from_numpy(PIXELS).permute(2, 0, 1)
SIZE = (46, 70)


def opened(tiny: Tiny, family: str, **settings: Any) -> Pretrained:
    return open_zero_shot(tiny(family), device="cpu", **settings)


def asked(segmenter: Pretrained, phrases: Sequence[str]) -> list[Found]:
    return list(segmenter.predict(IMAGE, phrases))


def same(one: Found, other: Found) -> None:
    """But for the last bits of sums in another order."""
    assert one.phrase == other.phrase
    assert one.p_target == pytest.approx(other.p_target, abs=1e-5)
    assert one.exists == other.exists
    assert (one.mask != other.mask).mean() < 0.002


# The library's own call, (h, w) bool


def library_clipseg(folder: str, phrase: str) -> np.ndarray:
    model, processor = (kind.from_pretrained(folder) for kind in (T.CLIPSegForImageSegmentation, T.CLIPSegProcessor))
    with torch.no_grad():
        logits = model.eval()(**processor(text=[phrase], images=[PICTURE], return_tensors="pt")).logits
    full = nn.functional.interpolate(logits.view(1, 1, *logits.shape[-2:]), SIZE, mode="bilinear")[0, 0]
    return (full.sigmoid() > 0.5).numpy()


def test_clipseg_equals_the_library(tiny: Tiny) -> None:
    segmenter = opened(tiny, "clipseg")
    for phrase in PHRASES:
        (found,) = asked(segmenter, [phrase])
        assert found.mask.any()
        assert not found.mask.all()
        np.testing.assert_array_equal(found.mask, library_clipseg(tiny("clipseg"), phrase))


@pytest.mark.parametrize("family", ["sam3", "sam3_lite_text"])
def test_sam3_equals_the_library(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    kind = {"sam3": T.Sam3Model, "sam3_lite_text": T.Sam3LiteTextModel}[family]
    model, processor = kind.from_pretrained(tiny(family)).eval(), T.Sam3Processor.from_pretrained(tiny(family))
    for phrase in PHRASES:
        with torch.no_grad():
            out = model(**processor(images=PICTURE, text=phrase, return_tensors="pt"))
        scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
        threshold = float(scores.median())  # half of the objects are kept
        (expected,) = processor.post_process_instance_segmentation(out, threshold=threshold, target_sizes=[SIZE])
        assert 0 < len(expected["masks"]) < len(scores)
        monkeypatch.setattr(sam3, "SCORE", threshold)
        (found,) = asked(opened(tiny, family, no_target_threshold=threshold), [phrase])
        assert found.exists
        assert found.p_target == pytest.approx(float(expected["scores"].max()))
        np.testing.assert_array_equal(found.mask, expected["masks"].bool().any(0).numpy())


def library_boxes(family: str, folder: str, phrase: str) -> dict[str, torch.Tensor]:
    """The boxes above the threshold and inside the picture, cut at its edges."""
    if family == "owlv2":
        model, processor = T.Owlv2ForObjectDetection.from_pretrained(folder), T.Owlv2Processor.from_pretrained(folder)
        texts: Any = [phrase]
    else:
        model = T.AutoModelForZeroShotObjectDetection.from_pretrained(folder)
        processor, texts = T.GroundingDinoProcessor.from_pretrained(folder), phrase
    with torch.no_grad():
        out = model.eval()(**processor(images=PICTURE, text=texts, return_tensors="pt", truncation=True))
    scores = out.logits.sigmoid().amax(-1)[0]
    least = float(scores.quantile(0.2))
    (found,) = processor.post_process_grounded_object_detection(out, threshold=least, target_sizes=[SIZE])
    boxes = found["boxes"].clamp(min=0).minimum(torch.tensor([SIZE[1], SIZE[0]] * 2))
    there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return {"boxes": boxes[there], "scores": found["scores"][there], "least": torch.tensor(least)}


def library_masks(folder: str, boxes: torch.Tensor) -> np.ndarray:
    model, processor = T.Sam2Model.from_pretrained(folder).eval(), T.Sam2Processor.from_pretrained(folder)
    inputs = processor(images=PICTURE, input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, multimask_output=False)
    return processor.post_process_masks(out.pred_masks, inputs["original_sizes"])[0].any(0)[0].numpy()


@pytest.mark.parametrize(
    ("family", "phrase", "worded"),
    [
        ("owlv2", "a zebra", "a zebra"),
        ("grounding-dino", "a Zebra", "a zebra."),
        ("grounding-dino", "Mr. Smith?", "mr smith."),
        ("mm-grounding-dino", "two people on left", "two people on left."),
    ],
)
def test_boxes_and_sam2_equal_the_library(tiny: Tiny, family: str, phrase: str, worded: str) -> None:
    detector, sam2 = tiny(family).split("+")
    expected = library_boxes(family, detector, worded)
    segmenter = opened(tiny, family, no_target_threshold=0.0)
    assert isinstance(segmenter, BoxPrompted)
    segmenter.detector.score = float(expected["least"])
    (found,) = asked(segmenter, [phrase])
    assert len(expected["boxes"]) > 1
    assert found.p_target == pytest.approx(float(expected["scores"].max()), abs=1e-5)
    assert (found.mask != library_masks(sam2, expected["boxes"])).mean() < 0.002


def test_florence2_equals_the_library(tiny: Tiny) -> None:
    folder = tiny("florence2")
    model = T.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    processor, task = T.Florence2Processor.from_pretrained(folder), "<REFERRING_EXPRESSION_SEGMENTATION>"
    segmenter = opened(tiny, "florence2")
    segmenter.max_new_tokens = 12
    inputs = processor(images=PICTURE, text=task + PHRASES[0], return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=12, num_beams=3, do_sample=False)
    answer = processor.batch_decode(written, skip_special_tokens=False)[0]
    polygons = processor.post_process_generation(text=answer, task=task, image_size=PICTURE.size)[task]["polygons"]
    assert segmenter._outlines(segmenter._encode(PICTURE), PHRASES[0], PICTURE.size) == [
        p for each in polygons for p in each
    ]


def test_florence2_fills_what_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = opened(tiny, "florence2")
    written = "<loc_0><loc_0><loc_500><loc_0><loc_500><loc_999><loc_0><loc_999>"
    monkeypatch.setattr(
        segmenter.model, "generate", lambda **inputs: segmenter.tokenizer(written, return_tensors="pt")["input_ids"]
    )
    (found,) = asked(segmenter, ["the left half"])
    assert found.exists
    assert found.p_target == 1.0
    assert found.mask[:, :34].all()
    assert not found.mask[:, 37:].any()


# What every family promises


def encoders(segmenter: Any) -> list[nn.Module]:
    if isinstance(segmenter, BoxPrompted):
        model = segmenter.detector.model
        return [
            model.owlv2.vision_model if hasattr(model, "owlv2") else model.model.backbone.backbone,
            segmenter.model.vision_encoder,
        ]
    model = segmenter.model
    if hasattr(model, "clip"):
        return [model.clip.vision_model]
    return [model.vision_encoder if hasattr(model, "vision_encoder") else model.model.vision_tower]


def quick(segmenter: Pretrained) -> Pretrained:
    """Florence-2 writes a few tokens, not all that it may."""
    if hasattr(segmenter, "max_new_tokens"):
        segmenter.max_new_tokens = 8
    return segmenter


@pytest.mark.parametrize("family", FAMILIES)
def test_n_phrases_equal_n_calls_and_a_picture_is_encoded_once(tiny: Tiny, family: str) -> None:
    segmenter = quick(opened(tiny, family)).reporting_all()
    counts = [0 for _ in encoders(segmenter)]
    for number, encoder in enumerate(encoders(segmenter)):
        encoder.register_forward_hook(lambda *_, number=number: counts.__setitem__(number, counts[number] + 1))
    together = asked(segmenter, [*PHRASES, LONG])
    assert counts == [1] * len(counts)
    assert [found.phrase for found in together] == [*PHRASES, LONG]
    for found in together:
        same(found, asked(segmenter, [found.phrase])[0])
        assert found.mask.shape == SIZE
        assert found.mask.dtype == np.bool_
        assert found.pixels == found.mask.sum()


@pytest.mark.parametrize("family", SCORED)
def test_phrases_differ(tiny: Tiny, family: str) -> None:
    """Or the tests above would compare nothing."""
    found = asked(opened(tiny, family, no_target_threshold=0.0), PHRASES)
    assert len({round(one.p_target, 7) for one in found}) > 1


@pytest.mark.parametrize("family", SCORED)
def test_the_empty_answer(tiny: Tiny, family: str) -> None:
    segmenter = opened(tiny, family, no_target_threshold=1.0)
    for encoder in encoders(segmenter)[1:]:  # SAM 2 has nothing to do
        encoder.register_forward_hook(lambda *_: pytest.fail("encoded for nothing"))
    for found in asked(segmenter, PHRASES):
        assert (found.exists, found.pixels) == (found.p_target == 1.0, int(found.mask.sum()))
        assert found.exists or not found.mask.any()
    assert segmenter.thresholds.exists == 1.0


def test_the_empty_answer_of_florence2(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = opened(tiny, "florence2")
    monkeypatch.setattr(segmenter.model, "generate", lambda **inputs: torch.tensor([[2, 0, 2]]))
    (found,) = asked(segmenter, ["a zebra"])
    assert (found.exists, found.p_target, found.pixels) == (False, 0.0, 0)
    assert found.mask.shape == SIZE


@pytest.mark.parametrize("family", FAMILIES)
def test_long_phrases_are_cut_and_that_is_said(tiny: Tiny, family: str) -> None:
    segmenter = quick(opened(tiny, family)).reporting_all()
    one, other = asked(segmenter, [LONG + "dog", LONG + "cat"])
    assert one.p_target == other.p_target
    np.testing.assert_array_equal(one.mask, other.mask)
    (said,) = segmenter.cautions("a.jpg", ["dog", LONG])
    assert f"the model reads its first {segmenter.max_tokens} tokens" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_phrases_are_refused_at_once(tiny: Tiny, family: str) -> None:
    with pytest.raises(RefsegError, match="empty"):
        opened(tiny, family).predict(IMAGE, ["dog", " "])


def test_a_grounding_model_reads_nothing_in_full_stops(tiny: Tiny) -> None:
    segmenter = opened(tiny, "grounding-dino").reporting_all()
    nothing, dog = asked(segmenter, ["...", "dog"])
    assert (nothing.exists, nothing.p_target, dog.exists) == (False, 0.0, True)
    assert segmenter.cautions("a.jpg", ["...", "dog"]) == ["'...': the model reads nothing in it, and so finds nothing"]


@pytest.mark.parametrize("family", [*DETECTORS, "sam3"])
def test_instances_are_what_the_mask_is_the_union_of(tiny: Tiny, family: str) -> None:
    (found,) = asked(opened(tiny, family).reporting_all(), PHRASES[:1])
    assert found.instances
    assert found.instances[0].score == pytest.approx(found.p_target)
    union = np.zeros(SIZE, dtype=bool)
    for one in found.instances:
        assert one.rle is not None
        union |= masks.decode(one.rle).astype(bool)
        left, top, width, height = one.box
        assert min(one.box) >= 0
        assert left + width <= SIZE[1] + 1e-3
        assert top + height <= SIZE[0] + 1e-3
    np.testing.assert_array_equal(union, found.mask)
    (nothing,) = asked(opened(tiny, family, no_target_threshold=1.0), PHRASES[:1])
    assert nothing.instances == () or nothing.exists


def test_boxes_are_cut_at_the_edges_and_those_outside_dropped() -> None:
    boxes = torch.tensor([[-5.0, 10, 200, 20], [80, 10, 90, 20], [10, 10, 20, 20]])
    inside = _inside(Boxes(boxes, torch.tensor([0.3, 0.9, 0.1])), PICTURE)
    assert inside.boxes.tolist() == [[0, 10, 70, 20], [10, 10, 20, 20]]
    assert inside.scores.tolist() == pytest.approx([0.3, 0.1])


def test_what_is_kept() -> None:
    scores = torch.tensor([0.2, 0.9, 0.4, 0.3])
    assert kept(scores, 0.3).tolist() == [1, 2]
    assert kept(scores, 0.95).tolist() == [1]  # the best alone


def test_thresholds_are_the_familys_or_those_asked_for(tiny: Tiny) -> None:
    own = {family: opened(tiny, family).thresholds.exists for family in SCORED}
    assert own == {
        "clipseg": 0.5,
        "sam3": 0.3,
        "sam3_lite_text": 0.3,
        "grounding-dino": 0.25,
        "mm-grounding-dino": 0.25,
        "owlv2": 0.1,
    }
    asked_for = opened(tiny, "clipseg", threshold=0.2, no_target_threshold=0.7).thresholds
    assert (asked_for.mask, asked_for.exists) == (0.2, 0.7)
    more = asked(opened(tiny, "clipseg", threshold=0.2), PHRASES[:1])[0]
    assert more.pixels > asked(opened(tiny, "clipseg"), PHRASES[:1])[0].pixels
    with pytest.raises(RefsegError, match="has no thresholds"):
        opened(tiny, "florence2", threshold=0.2)


def test_clipseg_softens(tiny: Tiny) -> None:
    segmenter = opened(tiny, "clipseg", threshold=0.3, no_target_threshold=0.0)
    hard, soft = segmenter.predict(IMAGE, PHRASES), segmenter.soften(IMAGE, PHRASES)
    for one, other in zip(hard, soft, strict=True):
        assert one.soft is None
        np.testing.assert_array_equal(one.mask, other.soft > 0.3)


def test_names_of_answers(tiny: Tiny) -> None:
    assert opened(tiny, "clipseg").name == "clipseg"
    assert opened(tiny, "owlv2").name == "owlv2+sam2"
