"""What it costs to score answers: records with intervals and slices, and predictions in JSON lines.

    python benchmarks/scoring.py --baseline OTHER_CHECKOUT --measures records slices --out benchmarks/scoring.json
    python benchmarks/scoring.py --baseline OTHER_CHECKOUT --measures lines --expressions 50000 \
        --out benchmarks/scoring_lines.json

The same files are scored by this checkout and by another one, in processes of their own, in turns: `analyse` of
records with intervals, without and with all slices, and `eval --from` of JSON lines by the protocol refseg. Seven
phrases a picture of 640 x 480, eighty categories, blobs for masks, a fifth of the phrases without a target. Processor
seconds, the best of the rounds, since other programs only ever slow one down; memory is the most that the process held.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from programs import checkouts, in_a_process, options_of, tell, variables_of

MEASURES = ("records", "slices", "lines")
PHRASES = 7  # of a picture
SIZE = (480, 640)
MASKS = 64  # different ones
WORDS = (
    *("left", "right", "man", "woman", "red", "blue", "green", "dog", "cat", "car", "with", "hat", "two", "all"),
    *("except", "near", "front", "of", "the", "a", "tallest", "second", "person", "standing", "behind", "table"),
)


def blobs(rng: np.random.Generator) -> list[np.ndarray]:
    """(480, 640) bool: ellipses with wavy edges."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    found = []
    for _ in range(MASKS):
        y, x, a, b = rng.uniform(120, 360), rng.uniform(160, 480), rng.uniform(20, 110), rng.uniform(20, 110)
        angle = np.arctan2(rows - y, columns - x)
        edge = 1 + 0.2 * np.sin(5 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(23 * angle)
        found.append(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < edge)
    return found


def make(folder: Path, count: int) -> None:
    """Records, shards and JSON lines of so many expressions."""
    from refseg_cli.data import masks, storage
    from refseg_cli.data.shards import MANIFEST, Manifest, write_shard
    from refseg_cli.evaluation.answers import NO_MASK, About, Answer, writing_records
    from refseg_cli.records import Expression, Instance, Record

    rng = np.random.default_rng(0)
    rles = [masks.encode(mask) for mask in blobs(rng)]
    areas = [masks.area(rle) for rle in rles]
    shared = masks.shared_pixels(rles, rles)
    chosen = rng.integers(0, MASKS, (count, 2))
    same = rng.random(count) < 0.6
    chosen[same, 1] = chosen[same, 0]
    absent, said = rng.random(count) < 0.2, rng.random(count)
    texts = [" ".join(rng.choice(WORDS, int(rng.integers(1, 9)))) for _ in range(5000)]
    answers: list[Answer] = []
    records: list[Record] = []
    with (folder / "lines.jsonl").open("w") as lines:
        for image in range(-(-count // PHRASES)):
            rows = range(image * PHRASES, min(count, (image + 1) * PHRASES))
            instances = [Instance(n, 1 + n % 80, f"thing {n % 80}", (0, 0, 9, 9), rles[chosen[n, 0]]) for n in rows]
            expressions = []
            for place, n in enumerate(rows):
                true, found = chosen[n].tolist()
                text, none = texts[n % len(texts)], bool(absent[n])
                expressions.append(Expression(text, n, n, () if none else (place,)))
                target, both = (0, 0) if none else (areas[true], int(shared[true, found]))
                answers.append(
                    Answer(image, n, n, "val", text, int(not none), not none, True, float(said[n]), both,
                           areas[found] + target - both, areas[found], target, NO_MASK, True,
                           () if none else (instances[place].category,), both, areas[found])
                )  # fmt: skip
                mask = {"size": list(SIZE), "counts": rles[found].counts.decode()}
                lines.write(json.dumps({"sent_id": n, "ref_id": n, "image_id": image, "mask": mask}) + "\n")
            records.append(Record(image, f"{image}.jpg", "val", *SIZE, b"x", tuple(instances), tuple(expressions)))
    with writing_records(str(folder / "records.parquet"), About(model="benchmark")) as append:
        append(answers)
    info = write_shard(storage.locate(folder) / "val-00000-of-00001.parquet", records, plan="benchmark", problems=[])
    (folder / MANIFEST).write_bytes(Manifest("set", "", "set", {}, "benchmark", {"val": info}).to_json())


def measure(name: str, folder: Path) -> dict[str, float]:
    """Processor seconds, and GiB held at most."""
    from refseg_cli.evaluation.analysis import analyse
    from refseg_cli.evaluation.answers import read_answers
    from refseg_cli.evaluation.outside import OutsideRequest, score_file

    began = time.process_time()
    if name == "lines":
        found = score_file(OutsideRequest(str(folder / "lines.jsonl"), str(folder), ("val",)))
        scores = {split: len(answers) for split, answers in found.answers.items()}
    else:
        answers = read_answers(str(folder / "records.parquet"))
        analysis = analyse(answers, slices=name == "slices", curves=False)
        scores = {metric: estimate.high for metric, estimate in analysis.scores["refseg"].items()}
        scores["slices"] = len(analysis.slices)
    seconds = time.process_time() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": round(seconds, 2), "gibibytes": round(most, 3), "found": scores}


def in_turns(
    folder: Path, builds: dict[str, Path], rounds: int, measures: Sequence[str]
) -> Iterator[tuple[str, str, dict[str, float]]]:
    for _ in range(rounds):
        for name in measures:
            for build, checkout in builds.items():
                ran = subprocess.run(
                    [sys.executable, __file__, "--measure", name, "--files", str(folder)],
                    env=variables_of(checkout),
                    check=True,
                    capture_output=True,
                    text=True,
                )
                yield name, build, json.loads(ran.stdout)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--expressions", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--baseline", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", choices=MEASURES, help="one of them, of --files, in this process")
    parser.add_argument("--files", type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.measure, arguments.files)))
        return
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as temporary:
        folder = arguments.files or Path(temporary)
        if not (folder / "lines.jsonl").exists():
            in_a_process(make, folder, arguments.expressions)
        best: dict[str, dict[str, dict[str, float]]] = {}
        for name, build, found in in_turns(folder, checkouts(arguments.baseline), arguments.rounds, arguments.measures):
            known = best.setdefault(name, {}).setdefault(build, found)
            assert known["found"] == found["found"]
            best[name][build] = min(known, found, key=lambda one: one["seconds"])
            sys.stderr.write(f"{name}, {build}: {found['seconds']} s, {found['gibibytes']} GiB\n")
    result: dict[str, object] = {"expressions": arguments.expressions, "processor": {}}
    for name, builds in best.items():
        kept = {build: {k: v for k, v in one.items() if k != "found"} for build, one in builds.items()}
        if "baseline" in builds:
            assert builds["this"]["found"] == builds["baseline"]["found"], f"{name}: other figures"
            kept["ratio"] = {k: round(kept["this"][k] / kept["baseline"][k], 3) for k in ("seconds", "gibibytes")}
        result["processor"][name] = kept  # type: ignore[index]
    tell(result, arguments.out)


if __name__ == "__main__":
    main()
