"""The published evaluators once more, each on its own, sample by sample: what `PROTOCOLS` must equal.

Written from the fact sheets with sets of pixels and plain loops; nothing of refseg is used. A sample is a predicted
mask, a true mask (sets of pixels), whether the annotation has a target, and the no-target head's probability of a
target (None without a head). Fractions, None where a metric is undefined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


class Sample(NamedTuple):
    predicted: frozenset
    true: frozenset
    has_target: bool
    p_target: float | None = None


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def pixels(sample: Sample) -> tuple[int, int]:
    return len(sample.predicted & sample.true), len(sample.predicted | sample.true)


def overall(pairs: list[tuple[int, int]]) -> float | None:
    whole = sum(u for _, u in pairs)
    return sum(i for i, _ in pairs) / whole if whole else None


def lavt(samples: list[Sample]) -> dict[str, float | None]:
    counted = [pixels(s) for s in samples]
    ious = [0.0 if u == 0 else i / u for i, u in counted]
    table = {"mIoU": mean(ious), "oIoU": overall(counted)}
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        table[f"Pr@{threshold}"] = mean([float(iou >= threshold) for iou in ious])
    return table


def cris(samples: list[Sample]) -> dict[str, float | None]:
    ious = torch.tensor([i / (u + 1e-6) for i, u in map(pixels, samples)], dtype=torch.float64)
    table = {"IoU": mean(ious.tolist())}
    for threshold in torch.arange(0.5, 1.0, 0.1):
        passed = (ious > threshold).double()
        table[f"Pr@{threshold.item():.1f}"] = passed.mean().item() if len(ious) else None
    return table


def cgformer(samples: list[Sample]) -> dict[str, float | None]:
    table = cris(samples)
    return {"mIoU": table.pop("IoU"), "oIoU": overall([pixels(s) for s in samples]), **table}


def vlt(samples: list[Sample]) -> dict[str, float | None]:
    ious = [(i + 1e-10) / (u + 1e-10) for i, u in map(pixels, samples)]
    table = {"IoU": mean(ious)}
    for threshold in np.arange(0.5, 1, 0.05):
        name = f"{threshold:.2f}".rstrip("0")
        table[f"Pr@{name}"] = mean([float(iou > threshold) for iou in ious])
    return table


def rela(samples: list[Sample]) -> dict[str, float | None]:
    ious, counted, hits = [], [], {0.7: [], 0.8: [], 0.9: []}
    true_positive = false_negative = true_negative = false_positive = 0
    for sample in samples:
        i, u = pixels(sample)
        absent = len(sample.predicted) < 50 if sample.p_target is None else sample.p_target < 0.5
        if not sample.has_target:
            ious.append(1.0 if absent else 0.0)
            counted.append((0, 0) if absent else (0, len(sample.predicted)))
            true_positive += absent
            false_negative += not absent
            continue
        iou = 0.0 if absent or u == 0 else i / u
        ious.append(iou)
        counted.append((0, u) if absent else (i, u))
        false_positive += absent
        true_negative += not absent
        for threshold, passed in hits.items():
            passed.append(float(iou >= threshold))
    none, some = true_positive + false_negative, true_negative + false_positive
    return {
        "gIoU": mean(ious),
        "cIoU": overall(counted),
        "T-acc": true_negative / some if some else None,
        "N-acc": true_positive / none if none else None,
        **{f"Pr@{threshold}": mean(passed) for threshold, passed in hits.items()},
    }


def thesis(samples: list[Sample], *, head: bool = True) -> dict[str, float | None]:
    """6.4.1 in words: an answer of "no target" leaves no pixel, and that is how it is known."""
    ious, counted, hits, said = [], [], {0.7: [], 0.8: [], 0.9: []}, {True: [], False: []}
    for sample in samples:
        if head and sample.p_target is not None:
            cleared = sample.p_target < 0.5
        else:
            cleared = len(sample.predicted) < 50
        left = frozenset() if cleared else sample.predicted
        i, u = len(left & sample.true), len(left | sample.true)
        counted.append((i, u))
        said[sample.has_target].append(float(not left))
        if sample.has_target:
            iou = i / u if u else 0.0
            for threshold, passed in hits.items():
                passed.append(float(iou > threshold))
        else:
            iou = float(not left)
        ious.append(iou)
    found = mean(said[True])
    return {
        "cIoU": overall(counted),
        "gIoU": mean(ious),
        **{f"Pr@{threshold}": mean(passed) for threshold, passed in hits.items()},
        "N-acc": mean(said[False]),
        "T-acc": None if found is None else 1 - found,
    }


def mmdet(samples: list[Sample]) -> dict[str, float | None]:
    """Nothing over nothing is NaN, and NaN becomes 0."""
    counted = [pixels(sample) for sample in samples]
    return {"cIoU": overall(counted), "mIoU": mean([i / u if u else 0.0 for i, u in counted])}


def lisa(samples: list[Sample]) -> dict[str, float | None]:
    ious, counted = [], []
    for sample in samples:
        i, u = pixels(sample)
        iou = i / (u + 1e-5)
        if u == 0:
            iou += 1
        ious.append(iou)
        counted.append((i, u))
    return {"gIoU": mean(ious), "cIoU": overall(counted)}


def gsva(samples: list[Sample], *, grefcoco: bool = True) -> dict[str, float | None]:
    """The truth is in the true mask; a rejected target is asked again, and that mask counts."""
    ious, counted = [], []
    said = {"none": [], "some": []}
    for sample in samples:
        i, u = pixels(sample)
        rejected = not sample.predicted if sample.p_target is None else sample.p_target < 0.5
        if not sample.true:
            said["none"].append(float(rejected))
            ious.append(1.0 if rejected else 0.0)
            if grefcoco and not rejected:
                counted.append((i, u))
        else:
            said["some"].append(float(not rejected))
            counted.append((i, u))
            ious.append(i / (u + 1e-8))
    accuracies = {"N-acc": mean(said["none"]), "T-acc": mean(said["some"])}
    return {"gIoU": mean(ious), "cIoU": overall(counted), **accuracies}


def ref_zom(samples: list[Sample]) -> dict[str, float | None]:
    ious, counted, right = [], [], []
    for sample in samples:
        if not sample.has_target:
            right.append(float(len(sample.predicted) == 0))
            continue
        i, u = pixels(sample)
        ious.append(0.0 if u == 0 else i / u)
        counted.append((i, u))
    table = {"oIoU": overall(counted), "mIoU": mean(ious)}
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        table[f"Pr@{threshold}"] = mean([float(iou >= threshold) for iou in ious])
    return {**table, "Acc": mean(right)}


def cohd(samples: list[Sample]) -> dict[str, float | None]:
    """ReLA's, with F2 of "no target" from precision and recall, and both accuracies added up."""
    table = rela(samples)
    said = [len(s.predicted) < 50 if s.p_target is None else s.p_target < 0.5 for s in samples]
    right = sum(absent for absent, s in zip(said, samples, strict=True) if not s.has_target)
    none, denied = sum(not s.has_target for s in samples), sum(said)
    if none or denied:
        p, r = right / denied if right else 0, right / none if right else 0
        f2 = 0.0 if not right else 5 * p * r / (4 * p + r)
    both = None if None in (table["N-acc"], table["T-acc"]) else table["N-acc"] + table["T-acc"]
    return {**table, "F2": f2 if none or denied else None, "N+T-acc": both}


def deris(samples: list[Sample]) -> dict[str, float | None]:
    """As ReLA's, but what tells "no target" is that no query passes, and a single pixel is a target without that; and
    the evaluator of one target, over those that have one."""
    ious, counted, right, found = [], [], [], []
    for sample in samples:
        i, u = pixels(sample)
        absent = not sample.predicted if sample.p_target is None else sample.p_target < 0.5
        if not sample.has_target:
            right.append(float(absent))
            ious.append(1.0 if absent else 0.0)
            counted.append((0, 0 if absent else u))
        else:
            found.append(float(not absent))
            ious.append(0.0 if absent or u == 0 else i / u)
            counted.append((0 if absent else i, u))
    hits = [pair for pair, s in zip(counted, samples, strict=True) if s.has_target]
    of_targets = [iou for iou, s in zip(ious, samples, strict=True) if s.has_target]
    table = {"gIoU": mean(ious), "cIoU": overall(counted), "N-acc": mean(right), "T-acc": mean(found)}
    table |= {"mIoU": mean(of_targets), "oIoU": overall(hits)}
    return table | {f"Pr@{x}": mean([float(iou >= x) for iou in of_targets]) for x in (0.5, 0.6, 0.7, 0.8, 0.9)}


def phrasecut(samples: list[Sample]) -> dict[str, float | None]:
    """Nothing in common is 0, before anything is divided."""
    counted = [pixels(sample) for sample in samples]
    ious = [i / u if i else 0.0 for i, u in counted]
    table = {"mean-IoU": mean(ious), "cum-IoU": overall(counted)}
    return {**table, **{f"Pr@{x}": mean([float(iou > x) for iou in ious]) for x in (0.5, 0.6, 0.7, 0.8, 0.9)}}


def r_refcoco(samples: list[Sample], references: list[int] | None = None) -> dict[str, float | None]:
    """Reference after reference: first its phrases with a target, then those without."""
    groups: dict[int, list[Sample]] = {}
    for n, sample in enumerate(samples):
        groups.setdefault(n if references is None else references[n], []).append(sample)
    robust, r_ious, m_ious, counted = [], [], [], []
    for group in groups.values():
        left = [s._replace(predicted=frozenset()) if s.p_target is not None and s.p_target < 0.5 else s for s in group]
        positive = [pixels(s) for s in left if s.has_target]
        alarms = [len(s.predicted) for s in left if not s.has_target]
        counted += positive
        if positive:
            m_ious.append(mean([i / u if u else 0.0 for i, u in positive]))
        if alarms:
            robust.append(alarms.count(0) / len(alarms))
        whole = sum(u for _, u in positive) + sum(alarms)
        if whole:
            r_ious.append(sum(i for i, _ in positive) / whole)
    return {"mRR": mean(robust), "rIoU": mean(r_ious), "mIoU": mean(m_ious), "oIoU": overall(counted)}


EVALUATORS = {
    "lavt": lavt,
    "cris": cris,
    "cgformer": cgformer,
    "vlt": vlt,
    "asda": vlt,
    "rela": rela,
    "mmdet": mmdet,
    "lisa": lisa,
    "phrasecut": phrasecut,
    "cohd": cohd,
    "deris": deris,
    "gsva": gsva,
    "ref-zom": ref_zom,
    "r-refcoco": r_refcoco,
    "gsva-zom": lambda samples: gsva(samples, grefcoco=False),
    "thesis": thesis,
    "thesis-50pix": lambda samples: thesis(samples, head=False),
}
