"""References about annotated photos, made by `data.phrases` in several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from refseg_cli.data.phrases.annotated import categories_of, vocabulary
from refseg_cli.data.phrases.generate import Reference
from refseg_cli.data.phrases.photographs import Describer, Subject, companions_of
from refseg_cli.data.sources import Draft, Problem, Ref, Sentence
from refseg_cli.data.sources.instances import Instances
from refseg_cli.engine.prepare import Output, find_photos
from refseg_cli.engine.sharding import IMAGES_FOR_A_PROCESS, follow_parent
from refseg_cli.progress import Progress

CHUNK = 16  # photos that a process is given at a time


def references(
    found: Instances, folder: Path, output: Output, seed: int, problems: list[Problem], progress: Progress
) -> tuple[list[Ref], Counter[str]]:
    """References to what is annotated in the photos, without splits, and how many phrases there are of each kind.

    They depend on the photos, the annotations and the seed alone; those of a photo on its own, and on what the others
    show only in what is said to be missing.

    Args:
        folder: of the photos.
        output: its processes and rules are those of the phrases, too.
        problems: photos that cannot be used are appended here.
    """
    categories = categories_of(found.categories)
    pictures = [{a.category_id for a in annotations} for annotations in found.by_image.values()]
    nouns, companions = vocabulary(categories.values()), companions_of(pictures, categories)
    describer = Describer(categories, nouns, companions, seed, output.rules)
    subjects = list(_subjects(found, folder, problems))
    refs: list[Ref] = []
    kinds: Counter[str] = Counter()
    sent_id = 0
    for done, (subject, (said, faults)) in enumerate(_described(subjects, describer, output.workers), start=1):
        problems += faults
        for reference in said:
            ann_ids = tuple(subject.draft.annotations[i].ann_id for i in reference.targets)
            sentences = tuple(Sentence(sent_id + i, text, text) for i, text in enumerate(reference.phrases))
            refs.append(Ref(len(refs), subject.draft.image_id, "", ann_ids, sentences))
            sent_id += len(sentences)
            kinds[reference.kind] += len(sentences)
        progress("phrases", done, len(subjects))
    return refs, kinds


def _subjects(found: Instances, folder: Path, problems: list[Problem]) -> Iterator[Subject]:
    """The photos with annotations, but for those with broken ones: nobody knows what these are of."""
    drafts = [
        Draft(image_id, *_named(found.photos[image_id]), tuple(found.by_image[image_id]), ())
        for image_id in sorted(found.by_image)
        if image_id in found.photos and image_id not in found.broken and image_id not in found.broken_photos
    ]
    for draft, path in find_photos(drafts, [folder], problems):
        complete = found.complete.get(draft.image_id)
        yield Subject(draft, path, complete, found.class_masks.get(draft.image_id, {}))


def _named(photo: tuple[str, int, int]) -> tuple[str, str, int, int]:
    """A draft's file name, split, height and width."""
    return photo[0], "", photo[1], photo[2]


def _described(
    subjects: Sequence[Subject], describer: Describer, workers: int
) -> Iterator[tuple[Subject, tuple[list[Reference], list[Problem]]]]:
    workers = min(workers, len(subjects) // IMAGES_FOR_A_PROCESS)
    if workers <= 1:
        yield from zip(subjects, map(describer, subjects), strict=True)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=follow_parent)
    try:
        yield from zip(subjects, pool.map(describer, subjects, chunksize=CHUNK), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
