"""What a page shows of a model's answers beyond their scores: masks and maps, kept while evaluation goes on.

Not in `report`, since this needs torch and a page of anyone's predictions does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from refseg_cli import checkpoint
from refseg_cli.data.text import Tokenizer
from refseg_cli.evaluation.answers import Answer
from refseg_cli.models import MODELS
from refseg_cli.records import Batch, Explanation, MapKind, Prediction, Rle
from refseg_cli.report.content import PackedMap, pack
from refseg_cli.segmenters.choice import is_exported
from refseg_cli.segmenters.explain import explain, kinds_of
from refseg_cli.segmenters.zero_shot import is_zero_shot

MAP_CELLS = 28  # longer side of a map on the page; most models have no more, and 10,000 answers have many maps
MAP_BYTES = 256 << 20  # of maps in memory; beyond it the best answers lose theirs


class Watch:
    """Keeps what the page shows of each answer and its row in the records does not hold: its mask and its maps.

    Args:
        model: what answers, a checkpoint folder or an exported model; None for the bundled one. A model that gives
            finished masks has no maps to keep.

    Raises:
        RefsegError: no such model.
    """

    def __init__(self, model: str | None) -> None:
        self._kinds: Mapping[str, MapKind] = {}
        self._tokenizer: Tokenizer | None = None
        if not is_exported(model) and not (model is not None and is_zero_shot(model)):
            folder = checkpoint.resolve(model)
            recipe, _, _ = checkpoint.read_config(folder)
            self._kinds, self._tokenizer = kinds_of(MODELS[recipe.arch][1]), Tokenizer.load(folder)
        self._bytes = 0
        self._ious: list[float] = []
        self.masks: list[Rle] = []
        self.maps: dict[int, tuple[PackedMap, ...]] = {}

    def __call__(self, batch: Batch | None, prediction: Prediction | None, answers: Sequence[Answer]) -> None:
        """Evaluation calls it after each batch."""
        shown: Iterable[tuple[Explanation, ...]] = [()] * len(answers)
        if batch is not None and prediction is not None and self._tokenizer is not None:
            shown = explain(prediction, batch, self._kinds, self._tokenizer, longest=MAP_CELLS)
        for answer, explanations in zip(answers, shown, strict=True):
            if explanations:
                packed = tuple(pack(explanation) for explanation in explanations)
                self.maps[len(self.masks)] = packed
                self._bytes += sum(len(one.data) for one in packed)
            self.masks.append(answer.mask)
            self._ious.append(
                answer.intersection / max(answer.union, 1) if answer.has_target else answer.predicted == 0
            )
        while self._bytes > MAP_BYTES:
            self._forget_the_best()

    def _forget_the_best(self) -> None:
        """A quarter of the maps: those of the best answers."""
        best_first = sorted(self.maps, key=lambda row: self._ious[row], reverse=True)
        for row in best_first[: -(-len(best_first) // 4)]:
            self._bytes -= sum(len(one.data) for one in self.maps.pop(row))
