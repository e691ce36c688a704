#!/bin/sh
# torchmetrics 1.9.0: a picture's generalized Dice score depends on the pictures beside it in the batch, and on their order
#
# generalized_dice_score returns a score for each picture. A class weighs 1 / area (or 1 / area squared, the default), which is
# infinite where the truth lacks the class. MONAI puts the largest finite weight of the same picture there.
# torchmetrics takes the largest over the batch instead, and of another class: the weights lie picture by picture, what is put
# in class by class. A picture alone gets weight 0, so whatever is wrongly said to be of that class costs nothing.
# GeneralizedDiceScore is the mean of these scores, so it changes with the batch size and with shuffling. Nothing warns;
# weight_type="linear" has no such weights. The documentation does not mention it. Upstream's open issue 2846 is about scores of
# classes that are absent from truth and prediction, not about the batch.
#
# Input: two pictures of 10 x 10 pixels and three classes. In the first the truth has classes 0 and 1, and the prediction says 2
# for 20 of the 50 pixels of class 0. The second has all three, and its prediction is the truth.
# Expected: the same score for the first picture in any company.
#
# Seen with torchmetrics 1.9.0, monai 1.6.1, torch 2.14.1, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   alone: first picture by torchmetrics 0.889, by MONAI 0.800
#   before the second: first picture by torchmetrics 0.679, by MONAI 0.800
#   after the second: first picture by torchmetrics 0.235, by MONAI 0.800
#   before the second, twice: first picture by torchmetrics 0.800, by MONAI 0.800
#   GeneralizedDiceScore of both: 0.944 one by one, 0.840 together, 0.618 together the other way round
#
# A way around: average DiceScore, or weight_type="linear".
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torchmetrics==1.9.0 monai==1.6.1 torch==2.14.1 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import sys
import warnings

import torch
from monai.metrics import compute_generalized_dice
from torchmetrics.functional.segmentation import generalized_dice_score
from torchmetrics.segmentation import GeneralizedDiceScore

warnings.simplefilter("ignore")
truth = torch.zeros(2, 10, 10, dtype=torch.long)
truth[0, :5] = 1
truth[1, :3], truth[1, 3] = 1, 2
said = truth.clone()
said[0, 5:7] = 2


def one_hot(classes):
    return torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)


seen = []
companies = {"alone": [0], "before the second": [0, 1], "after the second": [1, 0], "before the second, twice": [0, 1, 1]}
for words, batch in companies.items():
    first = batch.index(0)
    torchmetrics = generalized_dice_score(said[batch], truth[batch], num_classes=3, input_format="index")[first]
    monai = compute_generalized_dice(one_hot(said[batch]), one_hot(truth[batch]), sum_over_classes=True)[first]
    seen.append([round(float(score), 3) for score in (torchmetrics, monai)])
    print("{}: first picture by torchmetrics {:.3f}, by MONAI {:.3f}".format(words, *seen[-1]))


def mean(*batches):
    """GeneralizedDiceScore after these batches."""
    metric = GeneralizedDiceScore(num_classes=3, input_format="index")
    for batch in batches:
        metric.update(said[batch], truth[batch])
    return round(float(metric.compute()), 3)


means = [mean([0], [1]), mean([0, 1]), mean([1, 0])]
words = "GeneralizedDiceScore of both: {:.3f} one by one, {:.3f} together, {:.3f} together the other way round"
print(words.format(*means))
described = [[0.889, 0.8], [0.679, 0.8], [0.235, 0.8], [0.8, 0.8]]
sys.exit(0 if seen == described and means == [0.944, 0.84, 0.618] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
