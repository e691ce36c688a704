"""The measured tables of docs/architectures.md, bundled-model.md, metrics.md and training.md, from benchmarks/*.json.

python benchmarks/tables.py            writes the pages
python benchmarks/tables.py --check    exits with 1 where one is stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
NAMES = {
    "isfp": "ISFP",
    "vlt": "VLT",
    "m3att": "M3Att",
    "rela": "ReLA",
    "asda": "ASDA",
    "jmceln": "JMCELN",
    "cgformer": "CGFormer",
    "lavt": "LAVT",
    "cris": "CRIS",
    "caris": "CARIS",
    "deris": "DeRIS",
}
METRICS = ("gIoU", "cIoU", "Pr@0.5", "N-acc", "T-acc")
COVERED = ("cIoU", "gIoU", "mIoU", "Pr@0.5", "Pr@0.9", "N-acc", "T-acc")
TRIALS = 200  # of a cell of the table of coverage: with fewer, chance decides


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    names = list(columns)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _scores(runs: Iterable[Mapping[str, Any]], split: str, protocol: str = "refseg") -> list[Mapping[str, Any]]:
    return [run["scores"][split][protocol] for run in runs]


def _mean(scores: Iterable[Mapping[str, Any]], metric: str) -> float:
    return mean(found[metric]["value"] for found in scores)


def _with_interval(scores: Iterable[Mapping[str, Any]], metric: str) -> str:
    found = [s[metric] for s in scores]
    half = max(f["high"] - f["low"] for f in found) / 2
    return f"{mean(f['value'] for f in found):.2f} ± {half:.1f}"


def _small_row(arch: str, result: Mapping[str, Any], split: str) -> list[str]:
    seeing = _scores((run for run in result["runs"] if not run["blind"]), split)
    [blind] = _scores((run for run in result["runs"] if run["blind"]), split)
    gain = result["gain_over_blind"][split]["gIoU"]
    g_ious = [s["gIoU"]["value"] for s in seeing]
    return [
        NAMES[arch],
        str(len(seeing)),
        *(_with_interval(seeing, metric) for metric in METRICS),
        f"{max(g_ious) - min(g_ious):.2f}" if len(seeing) > 1 else "–",
        f"{blind['gIoU']['value']:.2f}",
        f"{gain['difference']:+.2f} ({gain['low']:+.1f} to {gain['high']:+.1f})",
    ]


def small_tables(found: Mapping[str, Any]) -> str:
    """A table of costs and one for each split."""
    results = found["results"]
    costs = [
        (
            NAMES[arch],
            f"{r['parameters'] / 1e6:.2f} M",
            f"{1000 * r['gflops_per_image'] / 2:.0f} M",
            f"{1000 * r['gflops_per_phrase'] / 2:.0f} M",
            f"{r['phrases_per_second']:.0f}",
        )
        for arch, r in results.items()
    ]
    columns = ("", "parameters", "multiply-adds an image", "a phrase", "phrases/s in training, one thread")
    parts = [table(columns, costs)]
    for split in ("testA", "testB"):
        rows = [_small_row(arch, result, split) for arch, result in results.items()]
        parts += [f"**{split}**", table([split, "seeds", *METRICS, "spread", "blind gIoU", "gain"], rows)]
    return "\n\n".join(parts)


def head_table(found: Mapping[str, Any]) -> str:
    """Of the models that have a no-target head: with it, and by the number of pixels."""
    rows = []
    for arch, result in found["results"].items():
        seeing = [run for run in result["runs"] if not run["blind"]]
        for split in ("testA", "testB"):
            told = [run["no_target"][split] for run in seeing]
            if "head" not in told[0]:
                continue
            fixed = {
                metric: [_mean(_scores(seeing, split, name), metric) for name in ("thesis", "thesis-50pix")]
                for metric in ("N-acc", "T-acc")
            }
            free = {key: [mean(t[rule][key] for t in told) for rule in ("head", "pixels")] for key in ("n_acc", "area")}
            pairs = [*fixed.values(), free["n_acc"]]
            cells = [f"{head:.2f}, {pixels:.2f}" for head, pixels in pairs]
            rows.append([NAMES[arch], split, *cells, "{:.3f}, {:.3f}".format(*free["area"])])
    return table(["", "split", "N-acc", "T-acc", "N-acc at 95 % T-acc", "area"], rows)


def full_table(found: Mapping[str, Any]) -> str:
    """A row for each recipe."""
    rows = []
    for recipe, r in found["results"].items():
        image, phrase, seconds = r["gflops_per_image"], r["gflops_per_phrase"], r["cpu_seconds"]
        faster = [seconds[k]["ungrouped"] / seconds[k]["grouped"] for k in ("4", "8")]
        rows.append(
            (
                f"`{recipe}`",
                " x ".join(map(str, r["size"])),
                f"{r['parameters'] / 1e6:.1f} M",
                f"{image:.1f}",
                f"{phrase:.1f}",
                f"{100 * image / (image + phrase):.1f} %",
                f"{seconds['1']['grouped']:.2f}",
                "1",
                *(f"{ratio:.2f}" for ratio in faster),
            )
        )
    columns = ("recipe", "pixels", "parameters", "GFLOPs an image", "a phrase", "language-free", "seconds, one phrase")
    return table([*columns, "1 phrase", "4 phrases", "8 phrases"], rows)


def cgformer_table(found: Mapping[str, Any]) -> str:
    """One phrase as the official code computes it, and as ours does."""
    model = found["model"]
    forms = {
        "ours, with the head's steps in the official order": model["official form, by the differences above"],
        "ours": model["ours"],
    }
    rows = [(name, f"{form['gflop']:.0f}", f"{form['cpu_seconds']:.2f}") for name, form in forms.items()]
    return table(["CGFormer, one image with one phrase", "GFLOPs", "seconds"], rows)


def photo_table(found: Mapping[str, Any]) -> str:
    """A row for each small model for photographs, at equal processor time."""
    rows = []
    for name, result in found["results"].items():
        scores = result["scores"]
        interval = "{value:.1f} ({low:.1f} to {high:.1f})".format(**scores["gIoU"])
        rest = (f"{scores[metric]['value']:.1f}" for metric in ("cIoU", "Pr@0.9", "N-acc", "T-acc"))
        rows.append((name, result["steps"], f"{result['cpu_minutes']:.1f}", interval, *rest))
    return table(["", "steps", "minutes of one core", "gIoU", "cIoU", "Pr@0.9", "N-acc", "T-acc"], rows)


def phrases_table(found: Mapping[str, Any]) -> str:
    """A row for each training of `phrases_per_image.py`: by how often each picture was seen, then by phrases of it."""
    rows = []
    for row in found["rows"]:
        seen = row["phrases"] / row["phrases_per_image"] / found["images"]
        intervals = ("{value:.1f} ({low:.1f} to {high:.1f})".format(**row[metric]) for metric in ("gIoU", "cIoU"))
        cells = (
            row["phrases_per_image"],
            f"{seen:.0f}",
            row["steps"],
            row["phrases"],
            f"{row['seconds']:.0f}",
            *intervals,
        )
        rows.append((round(seen), *cells))
    columns = ("phrases an image", "epochs", "steps", "phrases", "processor seconds", "gIoU", "cIoU")
    return table(columns, (cells for _, *cells in sorted(rows)))


def coverage_tables(found: Mapping[str, Any]) -> str:
    """By number of images: how many intervals hold the truth, of a figure and of a difference, and false alarms."""
    kinds = {
        "interval": "intervals of a figure that hold the truth",
        "difference": "intervals of a difference that hold the truth",
        "false_alarms": "equal models with p < 0.05",
    }
    populations = found["populations"].values()
    parts = []
    for kind, title in kinds.items():
        rows = []
        for pictures in next(iter(populations))["pictures"]:
            cells = [[p["pictures"][pictures][metric] for p in populations] for metric in COVERED]
            row = [_range(c[kind] for c in cell if kind == "false_alarms" or c["trials"] >= TRIALS) for cell in cells]
            if any(row):
                rows.append([pictures, *(text or "–" for text in row)])
        parts.append(table([f"{title}; images", *COVERED], rows))
    return "\n\n".join(parts)


def _range(values: Iterable[float | None]) -> str:
    """Lowest to highest."""
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} – {max(known):.1f}" if known else ""


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its marks; ValueError where one has no place."""
    for name, text in tables.items():
        page, places = re.subn(
            rf"<!-- {name} -->.*?<!-- end -->",
            lambda _, n=name, t=text: f"<!-- {n} -->\n\n{t}\n\n<!-- end -->",
            page,
            flags=re.S,
        )
        if places != 1:
            raise ValueError(f"{places} places for the table {name}")
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    small, full, head, coverage, photos, phrases = (
        json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        for name in ("architectures", "full_size", "cgformer_head", "coverage", "photo_models", "phrases_per_image")
    )
    pages = {
        "architectures.md": {
            "small": small_tables(small),
            "heads": head_table(small),
            "full": full_table(full),
            "cgformer": cgformer_table(head),
        },
        "bundled-model.md": {"photo-models": photo_table(photos)},
        "metrics.md": {"coverage": coverage_tables(coverage)},
        "training.md": {"phrases": phrases_table(phrases)},
    }
    stale = 0
    for name, tables in pages.items():
        page = DOCS / name
        before = page.read_text("utf-8")
        after = filled(before, tables)
        if options.check and before != after:
            print(f"{page} is stale; run python benchmarks/tables.py")  # noqa: T201
            stale = 1
        elif not options.check:
            page.write_text(after, "utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
