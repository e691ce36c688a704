"""SAM 3 that follows objects through a clip: transformers' own session, frame by frame, and bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_zero_shot
import torch
from torch.nn import functional as F

from refseg_cli.library import Model
from refseg_cli.segmenters.sam3_video import REMEMBERED, Sam3Video, forget
from refseg_cli.segmenters.zero_shot import open_zero_shot

PHRASES = ["a dog", "the red car", "a dog"]
FRAMES = [np.random.default_rng(n).integers(0, 255, (3, 40, 60), dtype=np.uint8) for n in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return str(tiny_zero_shot.sam3_video(tmp_path_factory.mktemp("zero-shot") / "sam3-video"))


@pytest.fixture(scope="module")
def opened(folder: str) -> Sam3Video:
    """A random model that takes whatever it sees for an object."""
    found = open_zero_shot(folder, device="cpu", no_target_threshold=0.0)
    assert isinstance(found, Sam3Video)
    list(found.follow(iter(FRAMES[:1]), PHRASES[:1]))
    video: Any = found.video
    video.score_threshold_detection = video.new_det_thresh = 0.0
    return found


def test_it_answers_every_frame_as_transformers_does(opened: Sam3Video) -> None:
    found = list(opened.follow(iter(FRAMES), PHRASES))
    assert [[one.phrase for one in frame] for frame in found] == [PHRASES] * len(FRAMES)
    session = opened._session(PHRASES)
    some = 0
    for pixels, frame in zip(FRAMES, found, strict=True):
        picture = opened.images(torch.from_numpy(pixels), return_tensors="pt").pixel_values
        out = opened.video(inference_session=session, frame=picture)
        hidden = {*(out.suppressed_obj_ids or ()), *(out.removed_obj_ids or ())}
        for number, phrase in enumerate(["a dog", "the red car"]):
            union = np.zeros((40, 60), bool)
            for one, mask in out.obj_id_to_mask.items():
                if session.obj_id_to_prompt_id[one] == number and one not in hidden:
                    union |= (F.interpolate(mask[None].float(), (40, 60), mode="bilinear")[0, 0] > 0).numpy()
            np.testing.assert_array_equal(next(f for f in frame if f.phrase == phrase).mask, union)
            some += int(union.any())
        np.testing.assert_array_equal(frame[0].mask, frame[2].mask)
    assert some


def test_python_follows_a_clip_with_it(opened: Sam3Video) -> None:
    found = Model(opened).follow([pixels.transpose(1, 2, 0) for pixels in FRAMES], PHRASES)
    for (frame, answers), expected in zip(found, opened.follow(iter(FRAMES), PHRASES), strict=True):
        np.testing.assert_array_equal(frame.pixels, FRAMES[frame.number])
        np.testing.assert_array_equal([a.mask for a in answers], [a.mask for a in expected])


def test_an_object_has_its_box_and_score(opened: Sam3Video) -> None:
    [found] = next(opened.follow(iter(FRAMES), PHRASES[:1]))
    assert found.instances
    for one in found.instances:
        x, y, width, height = one.box
        assert 0 <= x < x + width <= 60
        assert 0 <= y < y + height <= 40
        assert 0 <= one.score <= 1
    assert found.p_target == pytest.approx(max(one.score for one in found.instances))


def test_a_picture_is_asked_as_of_any_sam3(opened: Sam3Video, folder: str) -> None:
    other = open_zero_shot(folder, device="cpu", no_target_threshold=0.0)
    for one, two in zip(opened.predict(FRAMES[0], PHRASES), other.predict(FRAMES[0], PHRASES), strict=True):
        np.testing.assert_array_equal(one.mask, two.mask)


def test_long_clips_are_forgotten() -> None:
    class Session:
        processed_frames = {n: torch.zeros(9) for n in range(50)}  # noqa: RUF012
        output_dict_per_obj = {0: {"cond_frame_outputs": {0: 1}, "non_cond_frame_outputs": dict.fromkeys(range(50))}}  # noqa: RUF012

    forget(Session, 49)
    assert Session.processed_frames[49].numel() == 0
    assert len(Session.processed_frames) == 50  # the tracker counts them
    kept = Session.output_dict_per_obj[0]["non_cond_frame_outputs"]
    assert sorted(kept) == list(range(49 - REMEMBERED, 50))
    assert Session.output_dict_per_obj[0]["cond_frame_outputs"] == {0: 1}
