"""Which expressions are of which kind: by their targets, their size, their words.

Words are compared in lower case, whole, without punctuation; the lists are short on purpose, and here to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# COCO's bounds of object areas in pixels at original size: small < 32^2 <= medium < 96^2 <= large.
SMALL, MEDIUM = 32**2, 96**2


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPATIAL = _words(
    "left right leftmost rightmost top bottom topmost uppermost bottommost highest lowest upper lower up down above "
    "below under over middle center centre front back behind beside near nearest next closest closer far farthest "
    "farther corner side between edge foreground background inside outside"
)
COLOURS = _words(
    "red orange yellow green blue purple violet pink brown black white grey gray beige tan gold golden silver blond "
    "blonde maroon teal turquoise navy cream dark light colored coloured"
)
COUNTING = _words(
    "two three four five six seven eight nine ten both all every each pair couple several many first second third "
    "fourth fifth last"
)
EXCEPT = _words("except excepting excluding but")
MOTION = _words(
    "moving moves move motion still going goes go coming comes come entering enters enter leaving leave rising rises "
    "sinking sinks stays stay walking walks walk running runs run flying flies fly turning turns turn jumping jumps "
    "jump swimming swims swim climbing climbs climb crossing crosses cross following follows follow"
)
PAIRS = {
    '"except"': (("other", "than"), ("apart", "from"), ("aside", "from")),
    "motion": (("that", "leaves"), ("who", "leaves"), ("which", "leaves")),  # alone, a tree's
}
# PhraseCut's categories that are stuff, if one of these is in their name, and those that are COCO's;
# ChenyunWu/PhraseCutDataset, utils/subset.py.
STUFF = _words(
    "water waterdrops sea river fog ground field platform rail pavement road gravel mud dirt snow sand solid hill "
    "mountain stone rock wood sky cloud vegetation straw moss branch leaf leaves bush tree grass forest railing net "
    "cage fence building roof tent bridge skyscraper house food vegetable salad textile banner blanket curtain cloth "
    "napkin towel mat rug stairs light counter mirror cupboard cabinet shelf table desk door window floor carpet "
    "ceiling wall brick metal plastic paper cardboard street shadow sidewalk plant wave reflection ocean beach"
)
_COCO_NAMES = _words(
    "person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear "
    "zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard kite skateboard surfboard bottle cup "
    "fork knife spoon bowl banana apple sandwich orange broccoli carrot pizza donut cake chair couch bed toilet tv "
    "laptop mouse remote keyboard microwave oven toaster sink refrigerator book clock vase scissors toothbrush "
    "traffic_light fire_hydrant stop_sign parking_meter sports_ball baseball_bat baseball_glove tennis_racket "
    "wine_glass hot_dog potted_plant dining_table cell_phone teddy_bear hair_drier"
)
COCO = frozenset(name.replace("_", " ") for name in _COCO_NAMES)
LENGTHS = ((1, 2), (3, 4), (5, 7), (8, None))  # words, from and to
TARGETS = ((1, 1), (2, 2), (3, 3), (4, None))
VOCABULARY: dict[str, Iterable[str]] = {
    "spatial": SPATIAL,
    "colour": COLOURS,
    "counting": COUNTING,
    "motion": MOTION,
    '"and"': {"and"},
    '"except"': EXCEPT,
    '"with"': {"with", "without"},
}
_WORD_OR_END = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|\n")
TEXTS_AT_A_TIME = 10_000
END = 1 << 62  # the code of the end of a text


def _codes() -> tuple[dict[str, int], list[tuple[int, int, int]]]:
    """Word -> the bits of the lists that it is in, and of the words that pairs are made of; and the pairs, each with
    the bit of its list."""
    codes: dict[str, int] = {"\n": END}
    for place, words in enumerate(VOCABULARY.values()):
        codes |= {word: codes.get(word, 0) | 1 << place for word in words}
    parts = sorted({word for pairs in PAIRS.values() for pair in pairs for word in pair})
    bits = {word: 1 << len(VOCABULARY) + place for place, word in enumerate(parts)}
    codes |= {word: codes.get(word, 0) | bit for word, bit in bits.items()}
    lists = {name: 1 << place for place, name in enumerate(VOCABULARY)}
    return codes, [(bits[one], bits[two], lists[name]) for name, pairs in PAIRS.items() for one, two in pairs]


_BITS, _PAIR_BITS = _codes()


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """Some of n expressions. group: what they are told apart by.  rows: (n,) bool."""

    group: str
    name: str
    rows: np.ndarray


def find_slices(
    texts: Sequence[str],
    instance_counts: np.ndarray,
    areas: np.ndarray,
    categories: Sequence[Sequence[str]],
) -> list[Slice]:
    """Every slice that has an expression, groups in order of interest, categories by how often they are meant.

    Args:
        texts: n phrases.
        instance_counts: (n,) targets of each.
        areas: (n,) pixels of all its targets together, at original size.
        categories: n lists of its targets' category names, each once.
    """
    k, area = np.asarray(instance_counts), np.asarray(areas)
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # phrases are used again and again
    of = np.array([places[text] for text in texts], dtype=np.int64)
    length, said = (column[of] for column in _read_words(list(places)))
    slices = [
        Slice("targets", "no target", k == 0),
        Slice("targets", "single", k == 1),
        Slice("targets", "multi", k > 1),
        *(Slice("number", _range(low, high), _within(k, low, high)) for low, high in TARGETS),
        Slice("size", "small", (k > 0) & (area < SMALL)),
        Slice("size", "medium", (k > 0) & (area >= SMALL) & (area < MEDIUM)),
        Slice("size", "large", (k > 0) & (area >= MEDIUM)),
        *(Slice("words", _range(low, high), _within(length, low, high)) for low, high in LENGTHS),
        *_by_vocabulary(said),
        *_by_category(categories),
    ]
    return [part for part in slices if part.rows.any()]


def find_phrasecut_subsets(instance_counts: np.ndarray, categories: Sequence[Sequence[str]]) -> list[Slice]:
    """The subsets of PhraseCut's evaluator that depend on the targets' number and category, under its names.

    Its others depend on what prepared data do not hold: the phrase's structure, and how often names occur in the set.

    Args:
        instance_counts, categories: as in `find_slices`. PhraseCut gives all targets of a phrase one category.
    """
    k = np.asarray(instance_counts)
    stuff = [any(word in name for name in names for word in STUFF) for names in categories]
    of_coco = [not COCO.isdisjoint(names) for names in categories]
    is_stuff, is_coco = np.array(stuff, dtype=bool), np.array(of_coco, dtype=bool)
    subsets = [
        Slice("category", "c_coco", is_coco),
        Slice("instances", "i_single", k == 1),
        Slice("instances", "i_multi", (k > 1) & (k < 5)),  # the evaluator's code; its comment says "more than 1"
        Slice("instances", "i_many", k >= 5),
        Slice("type", "t_stuff", is_stuff),
        Slice("type", "t_obj", (k > 0) & ~is_stuff),
    ]
    return [part for part in subsets if part.rows.any()]


def _read_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) how many words each has, and (n,) the bits of the `VOCABULARY` that it uses."""
    lengths, bits = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        part = texts[start : start + TEXTS_AT_A_TIME]
        # Each text is a line of its own, so that a word knows its text by the ends of lines before it.
        words = _WORD_OR_END.findall("\n".join([text.replace("\n", " ") for text in part]).lower() + "\n")
        codes = np.array([_BITS.get(word, 0) for word in words], dtype=np.int64)
        ends = np.flatnonzero(codes == END)
        for first, second, of_list in _PAIR_BITS:
            codes[:-1][(codes[:-1] & first > 0) & (codes[1:] & second > 0)] |= of_list
        starts = np.append(0, ends[:-1] + 1)
        lengths[start : start + len(part)] = ends - starts
        bits[start : start + len(part)] = np.bitwise_or.reduceat(codes, starts)
    return lengths, bits


def _by_vocabulary(said: np.ndarray) -> list[Slice]:
    """said: (n,) bits, see `_read_words`."""
    if not len(said):
        return []
    found = {name: said & 1 << place > 0 for place, name in enumerate(VOCABULARY)}
    plain = said & (1 << len(VOCABULARY)) - 1 == 0
    return [Slice("says", name, rows) for name, rows in {**found, "none of these": plain}.items()]


def _by_category(categories: Sequence[Sequence[str]]) -> list[Slice]:
    members: dict[str, list[int]] = {}
    for n, names in enumerate(categories):
        for name in filter(None, names):  # data without categories have an empty one
            members.setdefault(name, []).append(n)
    slices = []
    for name in sorted(members, key=lambda c: (-len(members[c]), c)):
        rows = np.zeros(len(categories), dtype=bool)
        rows[members[name]] = True
        slices.append(Slice("category", name, rows))
    return slices


def _within(values: np.ndarray, low: int, high: int | None) -> np.ndarray:
    return (values >= low) if high is None else (values >= low) & (values <= high)


def _range(low: int, high: int | None) -> str:
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
