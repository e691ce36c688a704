"""How often 95 % intervals hold the truth, and how often two models that do not differ are said to.

    python benchmarks/coverage.py --out benchmarks/coverage.json
    python benchmarks/tables.py

Pictures are drawn from populations whose metrics are known, scored as `refseg eval` and `refseg compare` score them
(`metrics.intervals`), and what their intervals and p-values say is set against the truth. In a population, the phrases
of a picture share its difficulty; areas of objects are log-normal around 22,000 pixels, and larger ones are found more
easily; a target is found well (IoU around 0.78) or hardly at all, and some phrases have none. In `weak` little is found
and in `strong` much, in `unequal` pictures differ most, and `absent` mostly asks for what is not there.

For each population, number of pictures and metric the result has, in percent: `interval` and `difference`, how many
intervals held the truth, of the `trials` in which the metric had one (a metric that few pictures define has none); and
`false_alarms`, how many p-values were below 0.05 where both models were equally good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from programs import options_of, save

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.intervals import FEWEST, differences, estimates
from refseg_cli.metrics.scores import ratios, scores

PICTURES = (2, 3, 5, 10, 20, 60, 300)
SWAPS = 999  # the level of a test does not depend on it
GAIN = 0.4  # of the better model, in log odds of finding
LARGEST = 640 * 480
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Population:
    """skill: log odds of finding a target of e^10 pixels in a picture of middling difficulty.

    spread: standard deviation of the pictures' difficulty, in log odds.  absent: share of phrases without a target.
    """

    skill: float
    spread: float
    absent: float


POPULATIONS = {
    "weak": Population(-0.5, 1.0, 0.3),
    "strong": Population(2.5, 1.0, 0.25),
    "unequal": Population(1.0, 2.0, 0.3),
    "absent": Population(1.5, 1.0, 0.8),
}


def draw(rng: np.random.Generator, population: Population, pictures: int, gains: tuple[float, ...]) -> Any:
    """Answers of models that are so much better than the population's skill, to the same phrases.

    Returns:
        A `Counts` for each gain, and the picture of each of the n phrases.
    """
    images = np.repeat(np.arange(pictures), 1 + rng.poisson(2, pictures))  # three phrases a picture on average
    n = len(images)
    ease = rng.normal(0, population.spread, pictures)[images]
    phrase = rng.normal(0, 1, n)
    has = rng.random(n) >= population.absent
    size = rng.normal(10, 0.4, pictures)[images] + rng.normal(0, 0.8, n)
    area = np.minimum(np.exp(size), LARGEST)
    models = []
    for gain in gains:
        odds = population.skill + gain + ease
        found = rng.random(n) < _share(odds + phrase + 0.6 * (size - 10))
        iou = np.where(found, rng.beta(7, 2, n), rng.beta(0.4, 4, n))
        predicted = np.minimum(area * np.exp(rng.normal(0, 0.3, n)), LARGEST).astype(np.int64) + 1
        target = np.where(has, area, 0).astype(np.int64)
        shared = np.minimum(iou * (target + predicted) / (1 + iou), np.minimum(target, predicted)).astype(np.int64)
        says = rng.random(n) < np.where(has, _share(2.5 + gain + ease), _share(-odds))
        models.append(Counts(shared, predicted, target, has, says))
    return models, images


def _share(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def simulate(population: Population, pictures: int, trials: int, truth: Mapping[str, tuple[float, float]]) -> Any:
    """metric -> counts of what happened. truth: of each metric, of the model and of the better one."""
    rng = np.random.default_rng((pictures, *(abs(int(100 * v) + 100) for v in asdict(population).values())))
    tally = {name: dict.fromkeys(("with", "held", "gaps", "gaps_held", "tests", "alarms"), 0) for name in truth}
    for _ in range(trials):
        (a, b, same), images = draw(rng, population, pictures, (0.0, GAIN, 0.0))
        tables = [ratios(counts) for counts in (a, b, same)]
        (own,) = estimates([(tables[0], None)], images)
        gaps = differences(tables[0], tables[1], images, swaps=1)
        equal = differences(tables[0], tables[2], images, swaps=SWAPS)
        for name, (value, better) in truth.items():
            seen, e, d = tally[name], own[name], gaps[name]
            seen["with"] += not math.isnan(e.low)
            seen["held"] += e.low <= value <= e.high
            seen["gaps"] += not math.isnan(d.low)
            seen["gaps_held"] += d.low <= better - value <= d.high
            seen["tests"] += not math.isnan(equal[name].p)
            seen["alarms"] += equal[name].p < SIGNIFICANT
    return tally


def measure(population: Population, trials: int) -> dict[str, Any]:
    (a, b), _ = draw(np.random.default_rng(0), population, 1_000_000, (0.0, GAIN))
    values, better = scores(a).values, scores(b).values
    truth = {name: (values[name], better[name]) for name in values}
    found: dict[str, Any] = {}
    for pictures in PICTURES:
        tally = simulate(population, pictures, trials, truth)
        found[str(pictures)] = {
            name: {
                "interval": _percent(seen["held"], seen["with"]),
                "trials": seen["with"],
                "difference": _percent(seen["gaps_held"], seen["gaps"]),
                "false_alarms": _percent(seen["alarms"], seen["tests"]),
            }
            for name, seen in tally.items()
        }
    return {**asdict(population), "truth": {name: 100 * value for name, value in values.items()}, "pictures": found}


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    found = {name: measure(population, options.trials) for name, population in POPULATIONS.items()}
    result = {"trials": options.trials, "fewest": FEWEST, "level": 95, "populations": found}
    save(result, options.out)


if __name__ == "__main__":
    main()
