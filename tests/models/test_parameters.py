"""What the headers of the papers' files say of their models' sizes, against what the recipes build."""

from __future__ import annotations

import sys

import pytest
import torch

from refseg_cli.checkpoint import without_downloads
from refseg_cli.config import load_recipe
from refseg_cli.models import MODELS, build_model

VOCABULARY = {"words": 1, "bert": 30_522, "clip": 49_408, "beit3": 64_010}
HEADERS = {
    "asda-refcoco": "180.80 M, the official 193.09 M",
    "caris-refcoco": "226.55 M, the official 226.57 M",
    "cgformer-full": "254.37 M; nothing published",
    "cgformer-refcoco": "249.50 M, the official 253.71 M",
    "cris-r101-refcoco": "RN101 161.25 M (161.25 M)",
    "cris-r50-refcoco": "RN50 146.85 M (official 146.85 M)",
    "deris-b-refcoco": "DeRIS-B 290.65 M, the official 291.46 M",
    "deris-l-refcoco": "DeRIS-L 780.73 M, the official 781.54 M",
    "isfp-darknet53-refcoco": "65.06 M without word embeddings",
    "jmceln-rn101-refcoco": "247.86 M",
    "lavt-refcoco": "225.64 M, the official 227.74 M",
    "m3att-darknet53-refcoco": "52.09 M with Darknet-53, without word embeddings",
    "m3att-swin-b-refcoco": "206.80 M with Swin-B and BERT",
    "rela-r50-grefcoco": "The R50 has 153.42 M",
    "rela-swin-b-grefcoco": "225.52 M, the official 225,521,469",
    "rela-swin-t-grefcoco": "Swin-T 162.56 M",
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_header_states_the_size(name: str) -> None:
    recipe = without_downloads(load_recipe(name))
    with torch.device("meta"):
        model = build_model(recipe, vocab_size=VOCABULARY[recipe.text.tokenizer])
    count = sum(parameter.numel() for parameter in model.parameters())
    if recipe.text.tokenizer == "words":
        count -= model.text.embedding.weight.numel()  # as many as the data have words
    if recipe.arch == "asda":
        count -= (77 - 17) * 512  # positions that no phrase uses, and that official files lack
    assert f"{count / 1e6:.2f} M" in HEADERS[name]
    header = sys.modules[MODELS[recipe.arch][1].__module__].__doc__
    assert header is not None
    assert HEADERS[name] in " ".join(header.split())


def test_every_paper_with_recipes_is_here() -> None:
    assert {name.partition("-")[0] for name in HEADERS} == set(MODELS) - {"align", "vlt", "vlt-clips"}
