"""`refseg predict` by two processes: what one would have written, each picture asked once, one status for both."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# Two processes meet by a file, and run commands one after the other with a model that finds "dog" in dark pictures.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from refseg_cli.app import main
from refseg_cli.commands import _shared
from refseg_cli.records import Thresholds
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

rank, job = int(sys.argv[1]), json.loads(sys.argv[2])
answered = []

class Fake:
    name, thresholds = "fake", Thresholds()

    def __init__(self, model=None, **options): ...

    def predict(self, image, phrases):
        answered.append(int(image[0, 0, 0]))
        for phrase in phrases:
            exists = phrase == ("cat" if image.mean() > 128 else "dog")
            yield Found(phrase, np.full(image.shape[1:], exists), exists, float(exists), image[0].size * exists)

    def cautions(self, name, phrases):
        return []

choice.open_segmenter = Fake
_shared.ROUND = 2
if job["world"] > 1:
    torch.distributed.init_process_group("gloo", init_method=job["meet"], rank=rank, world_size=job["world"])
for command in job["commands"]:
    if "rm" in command:
        if rank == 0:
            for name in command["rm"]:
                Path(name).unlink()
        if job["world"] > 1:
            torch.distributed.barrier()
        continue
    answered.clear()
    status = main(command["run"])
    Path(f"{job['told']}.{rank}.jsonl").open("a").write(json.dumps([status, answered]) + "\\n")
"""


def predicted(
    python: Path, world: int, folder: Path, commands: list[dict[str, Any]]
) -> tuple[list[list[Any]], list[str]]:
    """Of each process what it tells of each command, [status, pictures' greys]; and its standard output."""
    job = {"world": world, "meet": f"file://{folder}/meet", "told": "told", "commands": commands}
    started = [
        subprocess.Popen(
            [python, "-c", PROGRAM, f"{rank}", json.dumps(job)],
            cwd=folder,
            env={
                **os.environ,
                **{"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world}", "OMP_NUM_THREADS": "1"},
                **({"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    ends = [process.communicate(timeout=240) for process in started]
    assert all(process.returncode == 0 for process in started), [end[1] for end in ends]
    told = [(folder / f"told.{rank}.jsonl").read_text().splitlines() for rank in range(world)]
    return [[json.loads(line) for line in lines] for lines in told], [end[0] for end in ends]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """For one and for two processes: nine pictures, of which the fifth is broken, each of a grey of its own."""
    for world in (1, 2):
        (tmp_path / f"{world}/photos").mkdir(parents=True)
        for n in range(9):
            Image.new("RGB", (9 + n, 6), (20 * n, 20 * n, 20 * n)).save(tmp_path / f"{world}/photos/{n}.png")
        (tmp_path / f"{world}/photos/4.png").write_bytes(b"once upon a time")
    return [tmp_path / "1", tmp_path / "2"]


def test_two_processes_predict_as_one_does(python: Path, folders: list[Path]) -> None:
    asked = ["predict", "photos", "-p", "dog", "-p", "cat"]
    commands = [
        {"run": [*asked, "--json", "-o", "all.jsonl"]},
        {"run": [*asked, "--format", "coco", "-o", "all.json"]},
        {"run": [*asked, "-o", "masks/{stem}-{phrase}.png"]},
        {"rm": ["masks/0-dog.png", "masks/5-cat.png", "masks/8-cat.png"]},
        {"run": [*asked, "-o", "masks/{stem}-{phrase}.png", "--resume"]},
        {"run": ["predict", "photos/8.png", "photos/7.png", "-p", "dog", "--json"]},
        {"run": ["predict", "photos/8.png", "photos/7.png", "-p", "cat", "--json", "-o", "all.jsonl"]},
        {"run": ["predict", "-", "photos/7.png", "-p", "cat", "--json"]},
        {"run": ["predict", "--jsonl", "-"]},
    ]
    [alone], [written] = predicted(python, 1, folders[0], commands[:-2])
    (first, second), (printed, nothing) = predicted(python, 2, folders[1], commands)
    assert (printed, nothing) == (written, "")
    one, two = ({str(p.relative_to(f)): p for p in f.rglob("*") if p.is_file()} for f in folders)
    expected = {name: path.read_bytes() for name, path in one.items() if "told" not in name}
    assert {n: p.read_bytes() for n, p in two.items() if "told" not in n and n != "meet"} == expected
    assert len(json.loads(two["all.json"].read_text())) == 8
    assert [status for status, _ in first] == [status for status, _ in second]
    assert [status for status, _ in first] == [*(status for status, _ in alone), 2, 2] == [2, 2, 2, 2, 1, 2, 2, 2]
    for shares in zip(first, second, alone, strict=False):
        mine, others, all_of_them = (greys for _, greys in shares)
        assert sorted(mine + others) == sorted(all_of_them)
    assert len(first[0][1]) == 4  # in rounds of two pictures each: 0 1, 4 5, 8
