"""`refseg eval`: the request that reaches the engine, the tables, the JSON, and what is said beside them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.config import Published
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.evaluation import evaluate as engine
from refseg_cli.evaluation.answers import NO_MASK, About, Answer, collect, plan_views, read_answers
from refseg_cli.evaluation.evaluate import EvalReport, EvalRequest
from refseg_cli.evaluation.scoring import Evaluation
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.progress import Progress
from refseg_cli.records import Thresholds

Capture = pytest.CaptureFixture[str]
PAPER = Published(paper="Some Paper", table="3", protocol="vlt", figures={"set/val": {"IoU": 61.5, "Pr@0.5": 70.0}})
SHORT = ["--resamples", "20"]
IMAGES = 10


def answer(image: int, intersection: int, predicted: int, target: int, views: int) -> Answer:
    return Answer(
        image, image, image, "val", "left dog", 1, True, True, 0.9, intersection, predicted + target - intersection,
        predicted, target, NO_MASK, True, ("dog",), intersection, predicted, (),
        (intersection, predicted, target) * views,
    )  # fmt: skip


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EvalRequest]:
    """What reaches the engine; its report has ten images with an expression each, IoU 3/4 and 0, all with a target."""
    seen: list[EvalRequest] = []
    monkeypatch.chdir(tmp_path)

    def evaluate(request: EvalRequest, *, watch: object = None, progress: Progress) -> EvalReport:
        seen.append(request)
        named = [PROTOCOLS[name] for name in request.protocols]
        about = About(
            data=request.data,
            dataset="set",
            model="bundled",
            views=plan_views(named, Thresholds())[0],
            changed=str(request.disturb or ""),
        )
        views = len(set(about.views.values()))
        rows = [
            row
            for n in range(IMAGES // 2)
            for row in (answer(2 * n, 3, 3, 4, views), answer(2 * n + 1, 0, 2, 2, views))
        ]
        done = Evaluation(collect(about, rows), images=IMAGES, image_encodings=IMAGES, seconds=2.5)
        return EvalReport(
            about=about,
            evaluations=dict.fromkeys(request.splits, done),
            published=PAPER,
            records=request.records,
        )

    monkeypatch.setattr(engine, "evaluate", evaluate)
    monkeypatch.setattr("refseg_cli.evaluation.provenance.cautions", lambda about, splits, trained_on: [])
    return seen


def test_every_option_reaches_the_engine(requests: list[EvalRequest]) -> None:
    options = ["--model", "run", "--device", "cpu", "--batch-images", "3", "--limit", "5", "--records", "r.parquet"]
    options += ["--protocol", "rela, vlt,rela", "--curves", "--set", "model.a=1", "--set", "data.b=x", *SHORT]
    assert main(["eval", "--data", "shards", "--split", "val, testA,testB", *options]) == FOUND
    assert requests == [
        EvalRequest(
            data="shards",
            splits=("val", "testA", "testB"),
            model="run",
            device="cpu",
            batch_images=3,
            limit=5,
            records="r.parquet",
            protocols=("rela", "vlt"),
            curve=True,
            overrides=("model.a=1", "data.b=x"),
        )
    ]


def test_defaults(requests: list[EvalRequest]) -> None:
    assert main(["eval", "--data", "shards", *SHORT]) == FOUND
    assert requests == [EvalRequest(data="shards", splits=("val",))]


def test_table_in_a_pipe(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--split", "val,testA", *SHORT])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("bundled on set: refseg (original size, mask > 0.5, target ≥ 0.5, at least 1 pixel)")
    assert lines[1].split() == ["metric", "val", "95", "%", "testA", "95", "%"]
    overall, mean = "16.36–64.80", "16.58–64.43"  # as of 15 trials; t with 10.5 and 12 degrees of freedom
    assert [line.split() for line in lines[2:5]] == [
        ["cIoU", "37.50", overall, "37.50", overall],
        ["mIoU", "37.50", mean, "37.50", mean],
        ["gIoU", "37.50", mean, "37.50", mean],
    ]
    assert lines[-2].split() == ["N-acc", "-", "-", "-", "-"]
    assert lines[-1].split() == ["T-acc", "100.00", "72.25–100.00", "100.00", "72.25–100.00"]


def test_no_resamples_no_intervals(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--resamples", "0"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gIoU", "37.50", "-"] in rows


def test_few_images_have_no_interval_and_are_told(
    requests: list[EvalRequest], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "IMAGES", 4)
    main(["eval", "--data", "shards", *SHORT])
    streams = capsys.readouterr()
    assert ["gIoU", "37.50", "-"] in [line.split() for line in streams.out.splitlines()]
    names = "cIoU, mIoU, gIoU, Pr@0.5, Pr@0.6, Pr@0.7, Pr@0.8, Pr@0.9, T-acc"
    assert f"val: no interval for {names}: it takes 10 images, or clips, and is formed over 4" in streams.err
    main(["eval", "--data", "shards", "--resamples", "0"])
    assert "no interval" not in capsys.readouterr().err


def test_options_stand_below_the_heading_of_their_group(capsys: Capture) -> None:
    assert main(["eval", "--help"]) == FOUND
    groups = re.split(r"\n\n(?=\S)", capsys.readouterr().out.rstrip())[-4:]
    titles = [group.splitlines()[0] for group in groups]
    assert titles == ["Options:", "Predictions from a file:", "More output:", "Use of language:"]
    for option, place in (("--data", 0), ("--from", 1), ("--slices", 2), ("--sanity", 3)):
        assert [option in group for group in groups] == [n == place for n in range(4)]


def test_several_protocols_stand_side_by_side(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--protocol", "all", *SHORT])
    assert requests[0].protocols == tuple(PROTOCOLS)
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    assert lines[0] == "bundled on set, val: 10 expressions"
    rows = {line.split()[0]: line for line in lines[2:]}
    assert list(rows) == [name for name in PROTOCOLS if name not in ("r-refcoco", "grec", "grec-iou", "sa-co")]
    assert "grec: it needs a box and a score of each instance, which these answers do not give" in streams.err
    assert "sa-co: it needs a mask and a score of each instance" in streams.err
    assert rows["rec-inclusive"].endswith("the first box, IoU with edges included > 0.5")
    assert "r-refcoco: no reference has phrases both with and without a target" in streams.err
    assert "37.50 oIoU" in rows["lavt"]
    assert "37.50 mIoU" in rows["lavt"]
    assert rows["lavt"].endswith("the network's input size, mask > 0.5")
    assert re.search(r"cris +- +37\.50 IoU", rows["cris"])
    assert "mask > 0.35" in rows["cris"]
    assert "at least 50 pixels without a head" in rows["thesis"]


def test_the_papers_figures_stand_in_their_protocols_line(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--protocol", "cris,all", *SHORT])
    lines = capsys.readouterr().out.splitlines()
    assert "in the paper" in lines[1]
    assert [line.split()[0] for line in lines[2:] if "61.50 IoU" in line] == ["vlt"]


def test_json_has_percentages_with_intervals(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--protocol", "refseg,vlt", "--slices", "--curves", "--json", *SHORT])
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["model"], found["dataset"]) == ("refseg.eval/1", "bundled", "set")
    assert found["thresholds"] == {"mask": 0.5, "exists": 0.5, "min_pixels": 1}
    split = found["splits"]["val"]
    assert (split["expressions"], split["images"], split["no_target"]) == (10, 10, 0)
    low, high = pytest.approx(16.36, abs=0.01), pytest.approx(64.80, abs=0.01)
    interval = {"value": 37.5, "low": low, "high": high, "expressions": 10, "images": 10}
    assert split["protocols"]["refseg"]["cIoU"] == interval
    nothing = {"value": None, "low": None, "high": None, "expressions": 0, "images": 0}
    assert split["protocols"]["refseg"]["N-acc"] == nothing
    assert split["protocols"]["vlt"]["Pr@0.7"]["value"] == 50
    assert split["published"]["vlt"] == {
        "source": "Some Paper, table 3",
        "figures": {"IoU": 61.5, "Pr@0.5": 70.0},
        "caution": None,
    }
    assert split["published"]["refseg"]["figures"] == {}
    assert {(part["group"], part["slice"]) for part in split["slices"]} >= {("category", "dog"), ("says", "spatial")}
    assert split["curves"]["reliability"]["expressions"][-1] == 10


def test_the_papers_figures_stand_beside_ours_where_the_protocol_is_theirs(
    requests: list[EvalRequest], capsys: Capture
) -> None:
    main(["eval", "--data", "shards", "--protocol", "vlt", *SHORT])
    streams = capsys.readouterr()
    lines = [line.split() for line in streams.out.splitlines()]
    assert lines[1][-4:] == ["val", "in", "the", "paper"]
    assert (lines[2][0], lines[2][-1]) == ("IoU", "61.50")
    assert lines[4][-1] == "-"  # Pr@0.55, which it does not print
    assert "not beside ours" not in streams.err


def test_figures_of_another_protocol_are_flagged_not_shown(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", *SHORT])
    streams = capsys.readouterr()
    assert "61.50" not in streams.out
    assert "val: Some Paper, table 3: not beside ours: its figures are by the protocol vlt" in streams.err


def test_thresholds_stand_beside_the_scores(requests: list[EvalRequest], capsys: Capture) -> None:
    assert main(["eval", "--data", "shards", "--split", "val", *SHORT]) == FOUND
    err = capsys.readouterr().err
    assert "threshold 0.5, no-target threshold 0.5, at least 1 pixel" in err
    assert "val: 10 expressions, 10 images, 4 expr/s" in err


def test_slices_and_curves_follow_the_scores(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--slices", "--curves", *SHORT])
    out = capsys.readouterr().out
    assert "bundled on set, val: slices, by the protocol refseg" in out
    assert re.search(r"category +dog +10 +10 +37\.50 +37\.50", out)
    assert "probability of a target, ECE 10.00 %, Brier 0.0100" in out


def test_phrasecut_subsets_follow_the_slices(requests: list[EvalRequest], capsys: Capture) -> None:
    main(["eval", "--data", "shards", "--protocol", "phrasecut", "--slices", *SHORT])
    out = capsys.readouterr().out
    assert "bundled on set, val: subsets, by the protocol phrasecut" in out
    row = next(line for line in out.splitlines() if line.startswith("i_single"))
    assert row.split() == ["i_single", "10", "10", "37.50", "37.50", "50.00", "50.00", "50.00", "0.00", "0.00"]
    main(["eval", "--data", "shards", "--protocol", "phrasecut", "--slices", "--json", *SHORT])
    (split,) = json.loads(capsys.readouterr().out)["splits"].values()
    assert [part["slice"] for part in split["subsets"]] == ["c_coco", "i_single", "t_obj"]
    main(["eval", "--data", "shards", "--slices", *SHORT])
    assert "subsets" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_tables_for_a_paper(requests: list[EvalRequest], capsys: Capture, form: str) -> None:
    main(["eval", "--data", "shards", f"--{form}", *SHORT])
    lines = capsys.readouterr().out.splitlines()
    if form == "markdown":
        assert lines[0].startswith("**bundled on set: refseg")
        assert lines[2:5] == ["| metric | val | 95 % |", "|---|---:|---:|", "| cIoU | 37.50 | 16.36–64.80 |"]
    else:
        assert r"\begin{tabular}{lrr}" in lines
        assert r"metric & val & 95 \% \\" in lines
        assert r"cIoU & 37.50 & 16.36--64.80 \\" in lines


@pytest.mark.parametrize(
    "options", [["--sanity", "shuffled-phrases"], ["--mask-words", "attended", "--mask-count", "2"]]
)
def test_disturbed_questions_are_asked_besides_the_plain_ones(
    requests: list[EvalRequest], capsys: Capture, options: list[str]
) -> None:
    assert main(["eval", "--data", "shards", "--records", "r.parquet", *options, *SHORT]) == FOUND
    disturbed, plain = requests
    assert plain.disturb is None
    assert disturbed == replace(plain, disturb=disturbed.disturb, records=None)
    name = str(disturbed.disturb)
    assert name in ("shuffled-phrases", "2 attended words erased")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bundled on set, val: refseg"
    assert lines[1].split() == ["metric", "as", "it", "is", *name.split(), "difference", "95", "%", "p"]
    assert lines[2].split() == ["cIoU", "37.50", "37.50", "+0.00", "+0.00", "to", "+0.00", "1.0000"]
    main(["eval", "--data", "shards", "--json", *options, *SHORT])
    found = json.loads(capsys.readouterr().out)
    assert found["differences"]["val/refseg"]["cIoU"]["difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", ","], "names no split"),
        (["--batch-images", "0"], "--batch-images"),
        (["--limit", "-1"], "--limit"),
        (["--protocol", "lavtt"], "unknown protocol 'lavtt' (did you mean 'lavt'?)"),
        (["--protocol", " , "], "--protocol names none"),
        (["--json", "--latex"], "--json and --latex exclude each other"),
        (["--mask-words", "random", "--sanity", "wrong-image"], "exclude each other"),
        (["--from", "p.jsonl", "--model", "run"], "--model needs a model"),
        (["--from", "p.jsonl", "--sanity", "wrong-image"], "--sanity needs a model"),
        (["--from", "p.jsonl", "--calibrate", "val"], "--calibrate needs a model"),
        (["--from", "p.jsonl", "--set", "data.fill=0"], "--set needs a model"),
        (["--from", "p.jsonl", "--limit", "3"], "--limit needs a model"),
        (["--from", "p.jsonl", "--batch-images", "3"], "--batch-images needs a model"),
        (["--sanity", "wrong-image", "--slices"], "has no use for --slices (omit one of them)"),
        (["--sanity", "wrong-image", "--curves"], "has no use for --curves"),
        (["--mask-words", "random", "--trained-on", "other"], "has no use for --trained-on"),
        (["--mask-words", "random", "--submission", "out.zip"], "has no use for --submission"),
        (["--on-error", "skip"], "--on-error applies to --from"),
        (["--merge", "union"], "--merge applies to --from"),
        (["--mask-count", "2"], "--mask-count needs --mask-words"),
        (["--model", "run", "--calibrate", "val", "--set", "data.fill=0"], "--calibrate stores thresholds"),
        (["--mask-words", "all"], "--mask-words"),
    ],
)
def test_errors(requests: list[EvalRequest], capsys: Capture, arguments: list[str], message: str) -> None:
    assert main(["eval", "--data", "shards", *arguments]) == ERROR
    err = capsys.readouterr().err
    assert err.startswith("refseg: ")
    assert message in err
    assert requests == []


# With a real model, data and files


@pytest.fixture(scope="module")
def recorded(run: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of both test splits, counted for two protocols."""
    path = str(tmp_path_factory.mktemp("records") / "r.parquet")
    options = ["--model", str(run), "--device", "cpu", "--split", "testA,testB", "--protocol", "refseg,lavt"]
    assert main(["-q", "eval", "--data", str(scenes), "--records", path, *options, *SHORT]) == FOUND
    return path


def test_records_give_the_same_table_again(run: Path, scenes: Path, recorded: str, capsys: Capture) -> None:
    options = ["--data", str(scenes), "--split", "testA,testB", "--protocol", "lavt,refseg", "--json", *SHORT]
    assert main(["eval", "--model", str(run), "--device", "cpu", *options]) == FOUND
    model = json.loads(capsys.readouterr().out)
    assert main(["eval", "--from", recorded, *options]) == FOUND
    assert json.loads(capsys.readouterr().out) == model


def test_somebodys_predictions_are_scored_and_faults_are_errors(
    scenes: Path, recorded: str, tmp_path: Path, capsys: Capture
) -> None:
    answers = read_answers(recorded).of_split("testA")
    lines = [json.dumps({"sent_id": int(n), "mask": None, "no_target": True}) for n in answers.sent_id]
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(lines))
    asked = ["eval", "--data", str(scenes), "--split", "testA", "--from", str(source), *SHORT]
    assert main([*asked, "--protocol", "rela"]) == FOUND
    streams = capsys.readouterr()
    where = "480 x 480, masks as given, at least 50 pixels where the file leaves it open"
    assert streams.out.splitlines()[0] == f"{source} on scenes: rela ({where})"
    assert re.search(r"N-acc +100\.00", streams.out)
    source.write_text("\n".join([*lines[1:], lines[1]]))
    assert main(asked) == ERROR
    assert "1 duplicate, 1 missing" in capsys.readouterr().err
    assert main([*asked, "--merge", "union"]) == ERROR
    assert ": 1 missing (" in capsys.readouterr().err
    saved = str(tmp_path / "p.parquet")
    assert main([*asked, "--on-error", "skip", "--json", "--records", saved]) == FOUND
    streams = capsys.readouterr()
    [left_out] = [said for said in json.loads(streams.out)["cautions"] if "left out" in said]
    assert left_out == f"{source}: left out: 1 duplicate, 1 missing"
    assert left_out in streams.err
    assert len(read_answers(saved)) == len(lines) - 1


def test_the_training_set_is_named(run: Path, scenes: Path, capsys: Capture) -> None:
    asked = ["eval", "--data", str(scenes), "--model", str(run), "--device", "cpu", "--limit", "2", *SHORT]
    assert main([*asked, "--split", "train"]) == FOUND
    assert "train: the model was trained on this split" in capsys.readouterr().err
    assert main([*asked, "--split", "val", "--trained-on", str(scenes)]) == FOUND
    assert "images are in the train split" not in capsys.readouterr().err
