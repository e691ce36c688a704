"""Which frames of which clips are looked at together, and the batches that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from refseg_cli.config import DataConfig, TextConfig
from refseg_cli.data.clips import Clip, Clips
from refseg_cli.data.loader import Pick, StepDataset, batch_of_frames
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.data.windows import ROWS, drawn_windows, whole_windows

CONFIG = DataConfig(size=(32, 48), resize="squash", clip_frames=3)
CLIPS = [Clip("a", range(0, 7), 4), Clip("none", range(7, 9), 0), Clip("b", range(9, 11), 2)]


@pytest.fixture
def split(films: Path) -> Shards:
    return open_shards(films, "train")


@pytest.fixture
def words(split: Shards) -> Tokenizer:
    return build_tokenizer(TextConfig(), [e.text for record in split for e in record.expressions])


def drawn(seed: int = 0, **settings: int) -> list[tuple[Pick, ...]]:
    wanted = {"batch": 1, "frames": 3, "phrases": 2, **settings}
    return drawn_windows(CLIPS, rng=np.random.default_rng(seed), **wanted)


def test_a_window_is_of_neighbouring_frames_with_the_same_phrases() -> None:
    for seed in range(9):
        by_clip = {step[0].clip: step for step in drawn(seed)}
        assert set(by_clip) == {0, 9}  # the clip without expressions is left out
        rows = [pick.image for pick in by_clip[0]]
        assert rows == list(range(rows[0], rows[0] + 3))
        assert [pick.image for pick in by_clip[9]] == [9, 10, 10]  # shorter than a window
        for step in by_clip.values():
            assert len({pick.expressions for pick in step}) == 1
            assert len(step[0].expressions) == 2
    assert len({drawn(seed)[0][0].image for seed in range(20)}) > 3


def test_steps_hold_whole_clips() -> None:
    [step] = drawn(batch=2)
    assert sorted(pick.clip for pick in step) == [0, 0, 0, 9, 9, 9]
    assert sorted(len(step[0].expressions) for step in drawn(phrases=0)) == [2, 4]


def test_evaluation_sees_every_frame_once_in_windows_of_one_length() -> None:
    steps = whole_windows(CLIPS, frames=3)
    assert [[pick.image for pick in step] for step in steps] == [[0, 1, 2], [3, 4], [5, 6], [9, 10]]
    assert {pick.expressions for step in steps[:3] for pick in step} == {(0, 1, 2, 3)}


def test_many_phrases_take_several_passes() -> None:
    many = Clip("many", range(0, 8), ROWS // 4)
    steps = whole_windows([many], frames=8)
    assert [len(step[0].expressions) for step in steps] == [ROWS // 8] * 2
    assert all(len(step) * len(step[0].expressions) <= ROWS for step in steps)


def test_a_batch_of_clips_is_grouped_by_phrase(split: Shards, words: Tokenizer) -> None:
    """Each row as a batch of pictures has it, and beside that which clip and which phrase it is of."""
    clips = Clips(split)
    [step] = drawn_windows(clips, batch=2, frames=3, phrases=2, rng=np.random.default_rng(0))[:1]
    batch = StepDataset(split, words, CONFIG)[step]
    plain = StepDataset(split, words, CONFIG)[tuple(Pick(pick.image, pick.expressions) for pick in step)]
    assert batch.frames == 3
    assert batch.phrase_index is not None
    assert batch.phrase_index.tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    for name in ("images", "tokens", "attention_mask", "image_index", "masks", "has_target", "sizes", "content"):
        torch.testing.assert_close(getattr(batch, name), getattr(plain, name))
    assert batch.samples == plain.samples
    assert (plain.frames, plain.phrase_index) == (1, None)


def test_things_of_a_clip_have_one_number_in_all_frames(split: Shards, words: Tokenizer) -> None:
    clip = Clips(split)[0]
    picks = tuple(Pick(row, tuple(range(clip.expressions)), clip.rows[0]) for row in clip.rows)
    batch = StepDataset(split, words, CONFIG)[picks]
    assert batch.target_id is not None
    seen = [
        tuple(sorted(split[row].instances[t].ann_id for t in expression.targets))
        for row in clip.rows
        for expression in split[row].expressions
    ]
    same = [[one == other for other in seen] for one in seen]
    assert (batch.target_id[:, None] == batch.target_id).tolist() == same
    frames = np.repeat(np.arange(len(clip)), clip.expressions)
    assert any(same[i][j] for i in range(len(seen)) for j in range(len(seen)) if frames[i] != frames[j])


def test_frames_of_a_clip_are_changed_alike(split: Shards, words: Tokenizer) -> None:
    """One lot for the clip: flipped as a whole, and its phrases with it."""
    config = DataConfig(size=(32, 48), resize="squash", flip=0.5, jitter=0.3, shrink=0.5, clip_frames=3)
    clip = Clips(split)[0]
    once = tuple(Pick(clip.rows[0], (0, 1), clip.rows[0]) for _ in range(3))
    flipped = set()
    for epoch in range(6):
        batch = StepDataset(split, words, config, augment=(0, epoch))[once].to("cpu")
        torch.testing.assert_close(batch.images[:1].expand(3, -1, -1, -1), batch.images)
        flipped.add(float(batch.images[0, 0, 0].sum()))
    assert len(flipped) > 2


def test_phrases_are_dealt_out_anew_by_clip(split: Shards, words: Tokenizer) -> None:
    clips = Clips(split)
    [step] = drawn_windows(clips, batch=len(clips), frames=3, phrases=2, rng=np.random.default_rng(0))
    blind = StepDataset(split, words, CONFIG, augment=(0, 0), shuffle_phrases=True)[step]
    plain = StepDataset(split, words, CONFIG, augment=(0, 0))[step]
    assert blind.phrase_index is not None
    for phrase in range(int(blind.phrase_index[-1]) + 1):
        assert len(blind.tokens[blind.phrase_index == phrase].unique(dim=0)) == 1
    assert not torch.equal(blind.tokens, plain.tokens)


def test_frames_without_annotations() -> None:
    words = build_tokenizer(TextConfig(), ["a dog", "the red car"])
    frames = [torch.full((3, 20, 30), 40 * n, dtype=torch.uint8) for n in range(3)]
    batch = batch_of_frames(frames, ["a dog", "the red car"], words, CONFIG)
    assert batch.phrase_index is not None
    assert batch.phrase_index.tolist() == [0, 1] * 3
    assert batch.image_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.frames == len(batch.images) == 3
