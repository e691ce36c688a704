#!/bin/sh
# transformers 5.24.0: in pictures that are no squares, mask generation with SAM 2 or SAM 3 never asks about one side
#
# The mask-generation pipeline lays a grid of points over the picture and asks the model for the object at each. SAM scales a
# picture until its longer side fits and pads the other; SAM 2, SAM 3 and EdgeTAM squash it to a square. But generate_crop_boxes
# of Sam2ImageProcessor (EdgeTAM's too) and of Sam3ImageProcessor scales the points as SAM's does, by the longer side. So in a
# picture of 640 x 480 the grid ends at three quarters of the height, and an object below is not found; in one of 480 x 640
# none on the right is. Crops (crops_n_layers) get such grids too. Nothing warns. Sam2Processor, for points of the user's own,
# scales each side by itself, and so does the generator in SAM 2's own code. No issue about it was found.
#
# Input: a black picture with a square of 60 x 60 pixels in each corner, in three sizes (width x height); in place of networks,
# an ideal model, which answers each point with all pixels of its colour.
# Expected: four squares found (a mask has an IoU above 0.9 with each).
#
# Seen with transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6, pillow 13.0.0, Python 3.11.7, Linux x86-64:
#   480 x 480, SAM: upper left, upper right, lower left, lower right
#   480 x 480, SAM 2: upper left, upper right, lower left, lower right
#   480 x 480, SAM 3: upper left, upper right, lower left, lower right
#   640 x 480, SAM: upper left, upper right, lower left, lower right
#   640 x 480, SAM 2: upper left, upper right
#   640 x 480, SAM 3: upper left, upper right
#   480 x 640, SAM: upper left, upper right, lower left, lower right
#   480 x 640, SAM 2: upper left, lower left
#   480 x 640, SAM 3: upper left, lower left
#
# A way around: pad pictures on the right or below to a square, and cut the masks.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 pillow==13.0.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys
import warnings

import torch
from PIL import Image, ImageDraw
from transformers import (
    MaskGenerationPipeline,
    PreTrainedConfig,
    PreTrainedModel,
    Sam2ImageProcessor,
    Sam3ImageProcessor,
    SamImageProcessor,
    logging,
)

warnings.simplefilter("ignore")
logging.set_verbosity(logging.CRITICAL)
corners = ("upper left", "upper right", "lower left", "lower right")
colours = ("red", "lime", "blue", "yellow")


class Ideal(PreTrainedModel):
    """Answers each point with all pixels of its colour."""

    config_class = PreTrainedConfig

    def __init__(self):
        super().__init__(PreTrainedConfig())
        self.nothing = torch.nn.Parameter(torch.zeros(1))  # the pipeline asks a weight for its device

    def get_image_embeddings(self, pixel_values):
        return pixel_values[..., 2::4, 2::4]

    def forward(self, input_points, image_embeddings, **others):
        picture, (x, y) = image_embeddings[0], (input_points[0, :, 0] / 4).long().T
        same = (picture[:, None] == picture[:, y, x][..., None, None]).all(0)
        masks = torch.where(same, 10.0, -10.0)[None, :, None]  # one for each point
        return {"pred_masks": masks, "iou_scores": torch.ones(masks.shape[:3])}


def show(words, processor, width, height):
    """The numbers of the squares that a mask is."""
    picture, squares = Image.new("RGB", (width, height)), []
    for index, colour in enumerate(colours):
        left, top = (20, width - 80)[index % 2], (20, height - 80)[index // 2]
        ImageDraw.Draw(picture).rectangle((left, top, left + 59, top + 59), fill=colour)
        squares.append(torch.zeros(height, width, dtype=torch.bool))
        squares[-1][top : top + 60, left : left + 60] = True
    masks = MaskGenerationPipeline(model=Ideal(), image_processor=processor)(picture, points_per_crop=16)["masks"]
    best = [max(float((mask & square).sum() / (mask | square).sum()) for mask in masks) for square in squares]
    found = [index for index, iou in enumerate(best) if iou > 0.9]
    print(f"{width} x {height}, {words}:", ", ".join(corners[index] for index in found))
    return found


sizes = ((480, 480), (640, 480), (480, 640))
processors = {"SAM": SamImageProcessor(), "SAM 2": Sam2ImageProcessor(), "SAM 3": Sam3ImageProcessor()}
seen = [show(words, processor, *size) for size in sizes for words, processor in processors.items()]
every = [0, 1, 2, 3]
sys.exit(0 if seen == [every, every, every, every, [0, 1], [0, 1], every, [0, 2], [0, 2]] else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py"
