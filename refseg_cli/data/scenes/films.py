"""Write moving scenes in the layout of MeViS, so that they go through the same reader as real videos.

OUT/train/JPEGImages/scene_train_000001/00000.jpg
OUT/train/meta_expressions.json    videos: frames and expressions; `kind` is an addition of ours, for analysis
OUT/train/mask_dict.json           anno_id -> for each frame a compressed RLE, or null where the thing is not seen
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random

from refseg_cli.data.phrases.generate import Reference, describe
from refseg_cli.data.phrases.proposals import CLIP_KINDS
from refseg_cli.data.scenes.catalogue import catalogue
from refseg_cli.data.scenes.generate import CHUNK, SUBJECTS, Job, Json, jpeg, plan, rle
from refseg_cli.data.scenes.moving import Film, film
from refseg_cli.errors import RefsegError
from refseg_cli.files import write

DEFAULT_CLIPS = {"train": 200, "val": 40}
FRAMES = 8  # of a clip
LEAST_FRAMES, MOST_FRAMES = 2, 999


def generate_films(
    out: Path,
    *,
    clips: Mapping[str, int] = DEFAULT_CLIPS,
    frames: int = FRAMES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> None:
    """Write a dataset of clips, the same bytes for the same seed and number of frames, whatever the number of workers.

    Args:
        clips: split -> number of clips; splits and promises as of `generate`.
        progress: called with the clips done and their total.

    Raises:
        RefsegError: an unknown split, more clips than ids, or frames too few to see a motion.
    """
    if not LEAST_FRAMES <= frames <= MOST_FRAMES:
        raise RefsegError(f"scenes: clips of {frames} frames", hint=f"from {LEAST_FRAMES} to {MOST_FRAMES} frames")
    jobs = list(plan(clips, seed))
    made = _made(jobs, out, frames, workers)
    done = count(1)
    for split in dict.fromkeys(job.split for job in jobs):
        videos: Json = {}
        things: Json = {}
        for job in (job for job in jobs if job.split == split):
            video, tracks = next(made)
            videos[name_of(job)] = numbered(video, len(things))
            things |= {str(len(things) + i): track for i, track in enumerate(tracks)}
            if progress:
                progress(next(done), len(jobs))
        write(out / split / "meta_expressions.json", json.dumps({"videos": videos}).encode())
        write(out / split / "mask_dict.json", json.dumps(things).encode())


def name_of(job: Job) -> str:
    """The video's name."""
    return f"scene_{job.split}_{job.index + 1:06d}"


def numbered(video: Json, first: int) -> Json:
    """A video whose objects have the numbers in `mask_dict` that follow `first`."""
    for expression in video["expressions"].values():
        expression["anno_id"] = [first + number for number in expression["obj_id"]]
    return video


def _made(jobs: list[Job], out: Path, frames: int, workers: int) -> Iterator[tuple[Json, list[list[Json | None]]]]:
    """Make the clips, in order: a row of `videos`, and each object's masks."""
    work = partial(make_film, out=out, frames=frames)
    if workers <= 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # as for pictures
        yield from pool.map(work, jobs, chunksize=CHUNK)


def make_film(job: Job, *, out: Path, frames: int) -> tuple[Json, list[list[Json | None]]]:
    """Make one clip: write its frames, return its rows."""
    rng = Random(f"film/{job.seed}/{job.split}/{job.index}")
    references: list[Reference] = []
    while not references:  # hardly ever is there a clip of which nothing can be said
        clip = film(rng, SUBJECTS[job.split], frames)
        references = describe(clip.scene, catalogue(), rng, SUBJECTS[job.split], kinds=CLIP_KINDS)
    folder = out / job.split / "JPEGImages" / name_of(job)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{frame:05d}" for frame in range(frames)]
    for name, image in zip(names, clip.images, strict=True):
        write(folder / f"{name}.jpg", jpeg(image))
    said = [(reference, phrase) for reference in references for phrase in reference.phrases]
    expressions = {
        str(number): {"exp": phrase, "obj_id": list(reference.targets), "kind": reference.kind}
        for number, (reference, phrase) in enumerate(said)
    }
    return {"expressions": expressions, "frames": names}, tracks_of(clip)


def tracks_of(clip: Film) -> list[list[Json | None]]:
    """Each object's masks, one for each frame; None where nothing is seen of it."""
    return [[rle(mask) if mask.any() else None for mask in track] for track in clip.masks]
