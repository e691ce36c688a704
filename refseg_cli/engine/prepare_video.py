"""Videos with expressions to prepared clips: `refseg prepare ref-youtube-vos` and its like, and moving scenes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from refseg_cli.data.sources import Problem, davis, videos
from refseg_cli.engine import sharding
from refseg_cli.engine.prepare import Material, Output, PrepareReport, write
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent

SPLIT_BY = "official"


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """Which videos to prepare.

    dataset: `ref-youtube-vos`, `mevis` or `ref-davis17`.  root: its folder.  splits: the wanted ones; none for all.
    """

    dataset: str
    root: Path
    output: Output
    splits: tuple[str, ...] = ()


def prepare_video(request: VideoRequest, *, progress: Progress = silent) -> PrepareReport:
    """Prepare videos with expressions.

    Raises:
        RefsegError: as `prepare.prepare`.
    """
    return write(_read(request), request.output, progress=progress)


def prepare_moving_scenes(
    out: str,
    *,
    clips: Mapping[str, int],
    frames: int,
    seed: int = 0,
    raw: Path | None = None,
    workers: int = 1,
    engine: sharding.Engine = "local",
    overwrite: bool = False,
    progress: Progress = silent,
) -> PrepareReport:
    """Generate moving scenes in MeViS' layout, and prepare them like any other.

    Args:
        clips: split -> number of clips.  frames: of each.
        raw: folder that keeps the raw files; None to throw them away.

    Raises:
        RefsegError: as `prepare.prepare`, or an unknown split.
    """
    from refseg_cli.data.scenes import generate_films

    with tempfile.TemporaryDirectory(prefix="refseg-scenes-") as temporary:
        folder = raw or Path(temporary)
        generate_films(
            folder,
            clips=clips,
            frames=frames,
            seed=seed,
            progress=lambda done, total: progress("clips", done, total),
            workers=workers,
        )
        output = Output(out, workers=workers, engine=engine, overwrite=overwrite)
        material = _read(VideoRequest("scenes-video", folder, output, tuple(s for s in clips if clips[s])))
        generator = {"seed": seed, "clips": dict(clips), "frames": frames}
        material = replace(
            material,
            image_source=f"scenes-video/{seed}/{frames}",
            source={**material.source, "generator": generator},
        )
        return write(material, output, progress=progress)


def _read(request: VideoRequest) -> Material:
    if not request.root.is_dir():
        raise RefsegError(f"{request.root}: no such folder", hint="--root is the folder of the data set")
    problems: list[Problem] = []
    raw = request.dataset == "ref-davis17" and not videos.is_layout(request.root)
    found = (davis if raw else videos).read(request.root, request.splits, problems)
    return Material(
        request.dataset,
        SPLIT_BY,
        request.dataset,
        {"sha256": found.digests},
        tuple(found.entries),
        found.split_of,
        tuple(problems),
        whole=not request.splits,
        without_masks=frozenset(found.without_masks),
    )
