#!/bin/sh
# trackeval 1.3.0: J-Decay and F-Decay of a video of more than 255 frames compare the wrong frames, or are NaN
#
# Decay is the mean over the first quarter of a video less the mean over its last one. The quarters' borders are cast to
# uint8, so a frame's number is taken modulo 256. The last quarter of 400 frames, 299 to 399, becomes 43 to 143, and nothing
# warns. That of 256 or 300 frames becomes empty: NaN, with NumPy's warning of an empty slice, and NaN for the mean over all
# videos. J-Mean, J-Recall and J&F are right. DAVIS's own videos are too short to show it; LVOS's have 412 frames on average
# (296,401 in 720 videos). Public copies of davis2017-evaluation, from which the code is adapted, have the same cast.
#
# Input: DAVIS's layout, videos of 255, 256, 300 and 400 frames with one object each. The tracker has the mask exactly until
# the last quarter begins, and nothing from there on.
# Expected: a decay of 1 for each, as J and F are 1 in the first quarter and 0 in the last.
#
# Seen with trackeval 1.3.0, numpy 2.4.6, pycocotools 2.0.11, Python 3.11.7, Linux x86-64:
#   255 frames: J-Mean 0.75, J-Decay 1.00, F-Decay 1.00
#   256 frames: J-Mean 0.75, J-Decay nan, F-Decay nan
#   300 frames: J-Mean 0.75, J-Decay nan, F-Decay nan
#   400 frames: J-Mean 0.75, J-Decay 0.00, F-Decay 0.00
#   all together: J-Mean 0.75, J-Decay nan, F-Decay nan
#
# A way around: keep J and F of each frame and compute decay from them, or cut long videos out of its mean.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir numpy==2.4.6 scipy==1.17.1 \
  pycocotools==2.0.11 pillow==13.0.0 scikit-image==0.26.0 opencv-python-headless==5.0.0.93 matplotlib==3.11.2 \
  tabulate==0.9.0 && "$folder/venv/bin/pip" install --quiet --no-cache-dir --no-deps trackeval==1.3.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import trackeval
from PIL import Image

warnings.simplefilter("ignore")
root = Path(sys.argv[1])
lengths = {f"{length} frames": length for length in (255, 256, 300, 400)}
mask = np.zeros((32, 32), np.uint8)
mask[8:24, 8:24] = 1
for video, length in lengths.items():
    lost = math.floor(1 + (length - 1) * 3 / 4 + 0.5) - 1  # the first frame of the last quarter
    for frame in range(length):
        for side, content in (("truth", mask), ("trackers/it/data", mask * (frame < lost))):
            path = root / side / video / f"{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
with contextlib.redirect_stdout(io.StringIO()):
    evaluator = trackeval.Evaluator({"OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False})
    dataset = trackeval.datasets.DAVIS({"GT_FOLDER": str(root / "truth"), "TRACKERS_FOLDER": str(root / "trackers")})
    results, _ = evaluator.evaluate([dataset], [trackeval.metrics.JAndF()])
seen = {}
for video, scores in results["DAVIS"]["it"].items():
    name = "all together" if video == "COMBINED_SEQ" else video
    seen[name] = [float(scores["general"]["JAndF"][field]) for field in ("J-Mean", "J-Decay", "F-Decay")]
for name, (mean, *decays) in seen.items():
    print(f"{name}: J-Mean {mean:.2f}, J-Decay {decays[0]:.2f}, F-Decay {decays[1]:.2f}")
right, wrong = seen["255 frames"][1:] == [1, 1], seen["400 frames"][1:] == [0, 0]
empty = all(math.isnan(decay) for name in ("256 frames", "300 frames", "all together") for decay in seen[name][1:])
sys.exit(0 if right and wrong and empty else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
