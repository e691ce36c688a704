"""Every shell command of the README and of docs/, run as it stands there, in a folder that has what they speak of.

What cannot run is in EXCEPTIONS, with the reason; what would take too long is made smaller by SMALLER. An entry of
either that no page needs fails the test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clips
import numpy as np
import pytest
import raw_layout
import yard
from PIL import Image

from refseg_cli.app import main
from refseg_cli.config import recipe_names
from refseg_cli.data import masks
from refseg_cli.data.shards import open_shards

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "refseg_cli/bundled/demo"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)

OTHERS_TEST = {  # pages that another test runs whole, with what they say is printed
    "own-data.md": "tests/engine/test_own_data_tutorial.py",
    "protocols.md": "tests/evaluation/test_protocols_page.py",
}
EXCEPTIONS = {  # commands, and why they are not run
    r"^pip install": "installs this package, tests and all",
    r"^python benchmarks/": "takes hours",
    r"hf:": "asks the hub; tests/segmenters/test_zero_shot*.py and tests/engine/test_publish.py stand in for it",
    r"^refseg compare first.parquet sam3.parquet": "needs the answers of the command above it",
    r"^refseg import ": "official weights; tests/models/test_official_imports.py makes such files",
    r"--model models/caris-refcoco": "needs the imported checkpoint",
    r"^refseg train --arch vlt --recipe vlt-darknet53-refcoco": "a recipe at full size; test_config.py builds each",
    r"^refseg train --recipe NAME|--model runs/NAME": "a template",
    r"model\.oracle": "needs a trained ISFP; tests/evaluation/test_overrides.py has one",
    r"--root (ref-youtube-vos|mevis|ref-davis) ": "videos of others; tests/engine/test_prepare_video.py makes some",
    r"^refseg prepare from ": "files of others; tests/engine/test_forms_*.py make such files",
    r"^refseg bench --(model vlt.onnx|recipe lavt)": "an export of another page; a model at full size",
    r"--fail-below": "hangs on the clock; tests/commands/test_bench_command.py",
    r"^refseg annotate |--root raw ": "serves until Ctrl-C; tests/annotate and test_annotate_command.py play the game",
    r"\bparallel\b": "GNU parallel, if it is not installed",
}
SLOW = ("bench.md", "export.md")
IF_INSTALLED = {r"\bparallel\b": "parallel", r"\bjq\b": "jq"}  # else an exception, too
SMALLER = {
    "--images 400 ": "--images 12 ",
    "train=4000,val=300,testA=300,testB=300": "train=4,val=2,testA=2,testB=2",
    "--int8 ": "--max-loss 100 --int8 ",  # of seven phrases, a wrong one is fourteen points
    "s3://bucket": "file://$PWD",
    "train=600,val=80": "train=2,val=1",
    "refseg bench": "refseg bench --repeat 1 --warmup 0",
    "--recipe vlt-tiny": "--recipe vlt-tiny --set data.size=[32,32] --set train.epochs=1",
    "--recipe vlt-clips-tiny": "--recipe vlt-clips-tiny --set train.steps=2",
}
# Statuses that are no failure: predict's 1 ("nothing found"), and 141, a closed pipe, where the pipe does not end.
CHECKED = """set -o pipefail
trap 'statuses=("${PIPESTATUS[@]}"); last=${statuses[-1]}
[[ $last == 0 || ($last == 1 && $BASH_COMMAND == refseg\\ predict*) ]] || exit 99
for status in "${statuses[@]}"; do [[ $status -le 1 || $status == 141 ]] || exit 98; done' ERR
"""


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text("utf-8"))


def without_exceptions(block: str) -> str:
    missing = {pattern for pattern, tool in IF_INSTALLED.items() if not shutil.which(tool)}
    refused = [p for p in {**EXCEPTIONS, **dict.fromkeys(missing)} if p in missing or p not in IF_INSTALLED]
    return "".join(line for line in block.splitlines(keepends=True) if not any(re.search(p, line) for p in refused))


def commands(block: str) -> tuple[str, list[str]]:
    """The script of a block, and what it says that is printed: a block of `$ command` holds both."""
    lines = block.splitlines(keepends=True)
    if not any(line.startswith("$ ") for line in lines):
        return block, []
    script = "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    return script, [line.strip() for line in lines if not line.startswith("$ ")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, scenes: Path, run: Path) -> Path:
    """What the pages take for granted, in one folder."""
    world = tmp_path_factory.mktemp("world")
    yard.make(world, pictures=4)
    for name in ("photo.jpg", "other.jpg", "photos/cat.jpg"):
        shutil.copy(DEMO / "cat.jpg", world / name)
    shutil.copy(DEMO / "astronaut.jpg", world / "photos")
    cat = Image.open(DEMO / "cat.jpg").convert("RGB").resize((96, 64))
    frames = [np.roll(np.asarray(cat), 4 * n, axis=1) for n in range(3)]
    clips.write_video(world / "clip.mp4", frames, codec="libx264")
    clips.write_folder(world / "frames", frames)
    (world / "phrases.txt").write_text("a cat\nthe person\n")
    (world / "requests.jsonl").write_text('{"id": 7, "image": "photo.jpg", "phrases": ["the cat", "a dog"]}\n')
    for name in ("scenes", "refcoco"):
        shutil.copytree(scenes, world / name)
    for name in ("first", "a", "b", "vlt"):
        shutil.copytree(run, world / "runs" / name)
    raw_layout.write_refcoco(world / "refer/data")
    raw_layout.write_photos(world / "refer/data")
    (world / "refer/data/images").rename(world / "train2014")
    lines = [
        {"sent_id": e.sent_id, "mask": {"size": found.size, "counts": found.counts.decode()}}
        for record in open_shards(scenes, "val")
        for e in record.expressions
        for found in [masks.targets(record, e)]
    ]
    (world / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = str(world / "answers.parquet")
    args = ["--data", str(scenes), "--model", str(run), "--split", "val,testA", "--device", "cpu", "--records", answers]
    assert main(["-q", "eval", *args]) == 0
    return world


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in PAGES
        if page.name not in OTHERS_TEST
    ],
)
def test_the_commands_of_a_page_run(page: Path, world: Path, forks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(world, folder)
    (tmp_path / "refseg").symlink_to(forks / "refseg")
    scripts = [(*commands(without_exceptions(block)), block) for block in blocks(page)]
    for made in re.findall(r"(?:--out|--output|-o) (\S+)", "".join(script for script, *_ in scripts)):
        if (folder / made).is_dir():
            shutil.rmtree(folder / made)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    for script, printed, block in scripts:
        for as_written, instead in SMALLER.items():
            script = script.replace(as_written, instead)
        done = subprocess.run(
            ["bash", "-c", CHECKED + script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=1200,
        )
        allowed = (0, 1) if script.rstrip().rpartition("\n")[2].startswith("refseg predict") else (0,)
        assert done.returncode in allowed, f"{block}\n{done.stdout}{done.stderr}"
        assert [line for line in printed if line not in done.stdout + done.stderr] == []
        written = re.findall(r"(?:--out|--output|-o|--records|--report|>) ([\w./-]*[a-z][\w./-]*)", script)
        assert [name for name in written if not (folder / name).exists()] == []


def test_exceptions_are_needed() -> None:
    lines = [line for page in PAGES for block in blocks(page) for line in block.splitlines()]
    for pattern in (*EXCEPTIONS, *IF_INSTALLED):
        assert any(re.search(pattern, line) for line in lines), f"no page has {pattern!r}: remove the exception"
    text = "\n".join(lines)
    assert [as_written for as_written in SMALLER if as_written not in text] == []
    assert set(OTHERS_TEST) <= {page.name for page in PAGES}
    assert all((ROOT / test).is_file() and name in (ROOT / test).read_text() for name, test in OTHERS_TEST.items())


def test_every_fence_says_what_it_holds() -> None:
    """A command in a fence without a language would be run by nobody. `bash` is for clusters, which no test has."""
    for page in PAGES:
        plain = re.findall(r"^```\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        fences = re.findall(r"^```(\w*)$", page.read_text("utf-8"), re.MULTILINE)[::2]
        assert set(fences) <= {"", "sh", "bash", "console", "python", "toml", "json", "csv"}, page
        assert not any(re.match(r"\$ |refseg ", line) for text in plain for line in text.splitlines()), page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_recipes_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"--recipe ([\w.+-]+)", page.read_text("utf-8")))
    assert {name for name in named if not name.endswith(".toml")} <= {*recipe_names(), "NAME"}


@pytest.mark.parametrize("page", [page for page in PAGES if "```bash" in page.read_text("utf-8")], ids=lambda p: p.name)
def test_commands_for_clusters_have_their_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    commands = re.findall(r"(?:^|-m )refseg(?:_cli)? (.*)", "\n".join(scripts).replace("\\\n", " "), re.MULTILINE)
    assert commands
    for command in commands:
        words = command.split()
        name = words[: 2 if words[0] == "prepare" else 1]
        assert main([*name, "--help"]) == 0
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out))
        assert {word for word in words if word.startswith("-")} <= known, command
