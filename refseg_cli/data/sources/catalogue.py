"""The datasets that can be prepared, where their files lie, and how large they are said to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from refseg_cli.data.sources import Ref, grefer, refer

FORMS = (".p", ".json")  # of references; the first one that is there is read, as ReLA does


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset as the REFER tool lays it out.

    folder:       its folder below the root, with instances.json.
    refs:         the references' file without its ending, {} standing for split_by; one of `FORMS` follows.
    parse:        how its rows are read.
    split_by:     whose splits there are; the first one is the usual one.
    image_source: where its image ids come from; the same id means the same picture within one source.
    """

    folder: str
    refs: str
    parse: Callable[..., Iterator[Ref]]
    split_by: tuple[str, ...]
    image_source: str


SOURCES: dict[str, Source] = {
    "refcoco": Source("refcoco", "refs({})", refer.refs, ("unc", "google"), "coco"),
    "refcoco+": Source("refcoco+", "refs({})", refer.refs, ("unc",), "coco"),
    "refcocog": Source("refcocog", "refs({})", refer.refs, ("umd", "google"), "coco"),
    "refclef": Source("refclef", "refs({})", refer.refs, ("unc", "berkeley"), "saiapr"),
    "grefcoco": Source("grefcoco", "grefs({})", grefer.refs, ("unc",), "coco"),
}

ALL = "all"  # the whole dataset, beside the splits below

# (dataset, split_by) -> split -> counts, named as in `SplitInfo`.
PUBLISHED: dict[tuple[str, str], dict[str, dict[str, int]]] = {
    # RefCOCO, RefCOCO+: splits, images, objects and totals as in ASDA (Yue et al., 2024), section 4.1.
    ("refcoco", "unc"): {
        "train": {"expressions": 120_624},
        "val": {"expressions": 10_834},
        "testA": {"expressions": 5_657},
        "testB": {"expressions": 5_095},
        ALL: {"images": 19_994, "refs": 50_000, "expressions": 142_210},
    },
    ("refcoco+", "unc"): {
        "train": {"expressions": 120_191},
        "val": {"expressions": 10_758},
        "testA": {"expressions": 5_726},
        "testB": {"expressions": 4_889},
        ALL: {"images": 19_992, "refs": 49_856, "expressions": 141_564},
    },
    # RefCOCOg: Nagaraja et al. (2016) for umd, Mao et al. (2016) for google.
    ("refcocog", "umd"): {
        "train": {"expressions": 80_512},
        "val": {"expressions": 4_896},
        "test": {"expressions": 9_602},
    },
    ("refcocog", "google"): {"train": {"expressions": 85_474}, "val": {"expressions": 9_536}},
    # gRefCOCO: Liu (2024), section 6.2.
    ("grefcoco", "unc"): {
        ALL: {"images": 19_994, "expressions": 278_232, "multi": 80_022, "no_target": 32_202},
    },
    # MeViS: github.com/henghuiding/MeViS, README; its test split is not released.
    ("mevis", "official"): {
        "train": {"clips": 1_662, "expressions": 23_051},
        "valid_u": {"clips": 50, "expressions": 793},
        "valid": {"clips": 140, "expressions": 2_236},
    },
}

# What the files hold as released, where that is not what the paper counts; as above.
RELEASED: dict[tuple[str, str], dict[str, dict[str, int]]] = {
    # The authors hold about 6 % back for a challenge: github.com/henghuiding/gRefCOCO/issues/6.
    ("grefcoco", "unc"): {ALL: {"expressions": 259_859}},
}
