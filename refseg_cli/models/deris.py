"""DeRIS: Decoupling Perception and Cognition for Enhanced Referring Image Segmentation through Loopback Synergy (Dai,
Cheng, Liu, Yang, Cai, Sun, Yang, ICCV 2025, arXiv:2507.01738).

Two networks beside one another: BEiT-3 reads the phrase and a small copy of the picture ("cognition"), a Mask2Former
whose Swin stays frozen the picture alone ("perception"). They meet in a few queries, each a mask and a score for being
what the phrase means; a mask of the phrase is the union of those whose score passes a threshold.

We have read the official code, not the paper; every default is the code's, of DeRIS-B for one target. What differs from
it, and why:
- What does not see language runs once per image: the Swin, the pixel decoder with its share of the mask features, keys
  and values of its memories, BEiT-3's patches. Of 139 GFLOPs a phrase 96 are an image's.
- The union is one logit map: of each query the smaller one of its mask's logit and of how far its score's passes the
  threshold, and of the queries the largest. It is positive exactly where the union is, and `exists_logit`, the largest
  of the scores', exactly where a query passes: the official evaluator's "target". The existence branch is trained and
  asked by nobody, as in the official code; its logit is in `aux`.
- BEiT-3's features are mixed into the mask features before they are enlarged: the same sums.
- timm's Swin, with windows padded before they are rolled. Frozen, it has no stochastic depth in training; the official
  one has, by its largest rate of 0.3. BEiT-3-L has no stochastic depth either, by a slip of the official code.
- No boxes: their loss weighs nothing, and no mask asks them. No class of the perception alone, for the same reason.
- The existence branch drops out what its attentions give, too.
- In a loopback a query attends to no other. The official code means it to, and swaps the axes of queries and batch: a
  query attends to the same one of the batch's other phrases. Here every phrase is a batch of its own, in which that is
  a linear layer, and what a query's mask covers has no say. Official figures of one target come from batches of 16.
- Parameters at full size: DeRIS-B 290.65 M, the official 291.46 M; DeRIS-L 780.73 M, the official 781.54 M. What is
  not here has no influence on mask or existence, see models/deris_official.py.
- Ours, for small models: words and patches made by encoders that have learned before, and queries that attend to one
  another, see `DeRISConfig`.

Axes: i images, n expressions, q queries, s stages (predictions), l words, c channels, h w of a map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from refseg_cli import losses
from refseg_cli.errors import RefsegError
from refseg_cli.layers.attention import take
from refseg_cli.layers.beit3 import MultiwayEncoder
from refseg_cli.layers.encoders import EncoderConfig, build_text, build_vision
from refseg_cli.layers.language import TextEncoder
from refseg_cli.layers.pixel_decoder import DeformablePixelDecoder, DensePixelDecoder, Pixels
from refseg_cli.layers.pyramids import NormedMaps
from refseg_cli.layers.upsampling import resized, upsample
from refseg_cli.layers.vision import freeze
from refseg_cli.models.deris_decoder import Existence, QueryDecoder, Stage, Words
from refseg_cli.ranges import Count, CountFrom0, Range, Share, ShareBelow1
from refseg_cli.records import Batch, MapKind, Prediction

CLASS_WEIGHTS = (1.0, 0.1)  # referred, other [official code]
WEIGHTS = {"refers": 2.0, "mask": 5.0, "dice": 5.0}  # of losses, and of the matching [official code]
EARLIER = 0.2  # of the same for all predictions but the last [official code]


@dataclass(frozen=True, slots=True)
class DeRISConfig(EncoderConfig):
    """All defaults are the official code's for DeRIS-B, but for those marked "ours"."""

    backbone: str = "swin_small_patch4_window7_224.ms_in1k"
    frozen: bool = True
    drop_path: Share | None = 0.0
    text: Literal["transformer"] = "transformer"  # only for `words = "encoder"`
    words: Literal["table", "encoder"] = "table"  # what BEiT-3 reads of them: its table, or `text`'s features [ours]
    patches: Literal["small", "map"] = "small"  # and of the picture: its small copy, or the map at stride 8 [ours]
    vocabulary: CountFrom0 = 64010  # rows of the table; 0: as many as the tokenizer has
    places: Count = 1022  # positions of words
    grid: tuple[Count, Count] = (14, 14)  # of the patches
    patch: Count = 16  # side of a patch in pixels
    width: Count = 768  # of BEiT-3
    width_heads: Count = 12
    width_hidden: Count = 3072
    width_layers: Count = 12
    width_drop_path: ShareBelow1 = 0.1
    dim: Count = 256  # of everything else
    heads: Count = 8
    pixel_decoder: Literal["deformable", "dense"] = "deformable"  # [official code; ours, for small pictures]
    pixel_layers: Count = 6
    pixel_hidden: Count = 1024
    queries: Count = 10
    layers: Count = 3
    hidden: Count = 2048
    among: Literal["alone", "queries"] = (
        "alone"  # whom a query attends to in a loopback [official code; as meant, ours]
    )
    existence_layers: Count = 3
    existence_hidden: Count = 512
    points: Count = 12544  # of a mask that losses and matching look at
    # above which a query's mask is part of the phrase's
    score_threshold: Annotated[float, Range(0, 1, above=True, below=True)] = 0.9


class DeRIS(nn.Module):
    """See the header. Built by `models.build_model`."""

    EXPLAIN: ClassVar[dict[str, MapKind]] = {"query_masks": "logits", "scores": "weights", "heeds": "words"}

    def __init__(self, config: DeRISConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, c = config, config.dim
        self.vision = NormedMaps(build_vision(config, size=size, maps=4))
        if config.frozen:
            freeze(self.vision)
        self.pixel_decoder = build_pixel_decoder(config, self.vision.channels)
        self.cognition = Cognition(
            config, vocab_size=vocab_size, max_tokens=max_tokens, size=size, channels=self.vision.channels[1]
        )
        self.seen, self.said = nn.Linear(config.width, c), nn.Linear(config.width, c)
        self.query_table = nn.Parameter(torch.randn(config.queries, config.width))
        self.queries = nn.Linear(config.width, c)
        self.perceived, self.understood = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1, bias=False)
        self.decoder = QueryDecoder(
            dim=c,
            heads=config.heads,
            hidden=config.hidden,
            layers=config.layers,
            queries=config.queries,
            among=config.among,
        )
        self.existence = Existence(
            c, heads=config.heads, hidden=config.existence_hidden, layers=config.existence_layers
        )

    def forward(self, batch: Batch) -> Prediction:
        """Mask logits (n, 1, H, W), see the header.

        aux: `query_masks` (n, q, h, w) logits at stride 4 and `scores` (n, q) in [0, 1], of the last prediction;
        `existence` (n,) logits; `stage_masks` (n, s, q, h, w) and `stage_referred` (n, s, q, 2), logits.
        """
        return self._answer(batch, *self._decoded(batch))

    def explained(self, batch: Batch) -> Prediction:
        """As `forward`, for showing: aux has besides `heeds` (n, q, l), how much each query heeds each word."""
        stages, features, words = self._decoded(batch)
        answer = self._answer(batch, stages, features, words)
        answer.aux["heeds"] = self.decoder.heeded(stages[-1], features, words)
        return answer

    def _decoded(self, batch: Batch) -> tuple[list[Stage], Tensor, Words]:
        """All predictions, the mask features (n, c, h, w), and what was said."""
        maps, index = self.vision(batch.images), batch.image_index
        pixels: Pixels = self.pixel_decoder(maps)
        seen, said = self.cognition(batch, maps)
        words = Words(self.said(said), batch.attention_mask)
        understood = self.understood(self.seen(seen.movedim(1, -1)).movedim(-1, 1))
        perceived = take(self.perceived(pixels.mask_features), index)
        features = perceived + resized(understood, perceived)
        queries = self.queries(self.query_table).expand(index.shape[0], -1, -1)
        return list(self.decoder.stages(queries, pixels.memory, features, words, index)), features, words

    def _answer(self, batch: Batch, stages: list[Stage], features: Tensor, words: Words) -> Prediction:
        last = stages[-1]
        passes = passing(last.referred, self.config.score_threshold)
        masks = upsample(last.masks, batch.images.shape[-2:])
        aux = {
            "query_masks": last.masks,
            "scores": last.referred.softmax(-1)[..., 0],
            "existence": self.existence(last.queries, words),
            "stage_masks": torch.stack([stage.masks for stage in stages], 1),
            "stage_referred": torch.stack([stage.referred for stage in stages], 1),
        }
        return Prediction(union(masks, passes)[:, None], passes.amax(1), aux)

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Of every prediction the set losses, and the cross-entropy of existence."""
        assert batch.has_target is not None
        targets, owners = self._targets(batch)
        masks, referred = prediction.aux["stage_masks"].unbind(1), prediction.aux["stage_referred"].unbind(1)
        terms = {"existence": losses.exists_bce(prediction.aux["existence"], batch.has_target)}
        for k, (mask, refers) in enumerate(zip(masks, referred, strict=True)):
            share = 1.0 if k == len(masks) - 1 else EARLIER
            found = losses.set_losses(
                mask,
                refers,
                targets,
                owners,
                enlarge=lambda some: upsample(some[None], targets.shape[-2:])[0],
                class_weights=CLASS_WEIGHTS,
                costs=WEIGHTS,
                points=self.config.points,
            )
            for name, term in found.items():
                terms[name] = terms.get(name, 0.0) + share * WEIGHTS[name] * term
        return terms

    @staticmethod
    def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
        """Masks (t, H, W) of the objects that are meant, each once, and whose they are (t,).

        Where the recipe asks for no objects, a phrase's targets are one.
        """
        if batch.objects is not None and batch.object_of is not None:
            return batch.objects, batch.object_of
        assert batch.masks is not None
        assert batch.has_target is not None
        return batch.masks[batch.has_target, 0], batch.has_target.nonzero()[:, 0]

    def pretrained_modules(self) -> list[nn.Module]:
        """The encoders that a recipe may train at a lower rate."""
        return [self.vision.backbone, self.cognition.text or self.cognition]


def build_pixel_decoder(config: DeRISConfig, channels: tuple[int, ...]) -> DeformablePixelDecoder | DensePixelDecoder:
    c, heads, hidden, layers = config.dim, config.heads, config.pixel_hidden, config.pixel_layers
    if config.pixel_decoder == "dense":
        return DensePixelDecoder(channels, dim=c, heads=heads, hidden=hidden, layers=layers)
    return DeformablePixelDecoder(channels, dim=c, heads=heads, hidden=hidden, layers=layers, simplified=True)


def passing(referred: Tensor, threshold: float) -> Tensor:
    """(n, q, 2) -> (n, q): how far the logit of each score lies above the threshold's; below 0 if the two are equal."""
    referred = referred.float() if referred.dtype in (torch.float16, torch.bfloat16) else referred
    passes = referred[..., 0] - referred[..., 1] - math.log(threshold / (1 - threshold))
    return torch.where(passes > 0, passes, passes - 1e-6)


def union(masks: Tensor, passes: Tensor) -> Tensor:
    """(n, q, H, W) logits, (n, q) -> (n, H, W): positive in the masks of those that pass."""
    return torch.minimum(masks, passes[..., None, None]).amax(1)


class Cognition(nn.Module):
    """BEiT-3 with what it reads. images' small copies, words -> a map (n, width, h, w), words (n, l, width)."""

    def __init__(
        self, config: DeRISConfig, *, vocab_size: int, max_tokens: int, size: tuple[int, int], channels: int
    ) -> None:
        super().__init__()
        if max_tokens > config.places:
            raise ValueError(f"phrases of {max_tokens} tokens need more than {config.places} positions (model.places)")
        rows, dim = config.vocabulary or vocab_size, config.width
        if rows < vocab_size:
            raise ValueError(f"a table of {rows} words (model.vocabulary) for a tokenizer that has {vocab_size}")
        self.small = (config.grid[0] * config.patch, config.grid[1] * config.patch)
        self.reads_maps = config.patches == "map"
        grid = (math.ceil(size[0] / 8), math.ceil(size[1] / 8)) if self.reads_maps else config.grid
        self.patches = nn.Conv2d(channels, dim, 1) if self.reads_maps else nn.Conv2d(3, dim, config.patch, config.patch)
        self.text: TextEncoder | None = None
        if config.words == "encoder":
            self.text = build_text(
                config, vocab_size=vocab_size, max_tokens=max_tokens, dim=config.dim, heads=config.heads
            )
        self.words = nn.Embedding(rows, dim) if self.text is None else nn.Linear(self.text.dim, dim)
        if isinstance(self.words, nn.Embedding):
            nn.init.normal_(self.words.weight, std=dim**-0.5)
        self.encoder = MultiwayEncoder(
            dim,
            heads=config.width_heads,
            hidden=config.width_hidden,
            layers=config.width_layers,
            drop_path=config.width_drop_path,
            grid=grid,
            words=config.places,
        )

    def forward(self, batch: Batch, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        keep = batch.attention_mask
        patches = self.patches(maps[1] if self.reads_maps else self._small(batch))
        words = self.words(batch.tokens if self.text is None else self.text(batch.tokens, keep))
        return self.encoder(self.encoder.place(patches)[batch.image_index], words, keep)

    def _small(self, batch: Batch) -> Tensor:
        if batch.small is None or batch.small.shape[-2:] != self.small:
            raise RefsegError(
                f"deris reads every picture a second time, at {self.small[0]}x{self.small[1]} pixels",
                hint=f"set data.small to [{self.small[0]}, {self.small[1]}], model.grid times model.patch",
            )
        return batch.small
