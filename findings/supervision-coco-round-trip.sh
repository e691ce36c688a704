#!/bin/sh
# supervision 0.31.2: `from_coco` and `as_coco` change COCO's masks: holes are filled, an edge is lost or added
#
# as_coco's documentation says that masks with holes or of several parts are saved as RLE. After from_coco they are not: it
# keeps each annotation's iscrowd, and where that is 0 as_coco writes polygons. A hole's outline becomes one polygon more,
# and COCO takes the union of an annotation's polygons, so the hole is filled, for supervision's own reader too. `area`
# remains that of the mask with the hole. Nothing warns.
#
# Polygons move besides. supervision's run through the centres of the outermost pixels, on which its own reader and writer
# agree; COCO's run along the pixels' edges (cocodataset/cocoapi issue 659 is about these two readings). So pycocotools
# decodes what as_coco wrote one column and one row smaller, and from_coco reads COCO's polygons one column and one row
# larger than pycocotools does: of an object of 10 x 10 pixels, 19 % less and 21 % more.
#
# Input: a picture with three annotations, all iscrowd 0: a square of 40 x 40 pixels as RLE, the same with a hole of 20 x 20
# as RLE, and the same square as a polygon.
# Expected: each annotation decodes to as many pixels after from_coco and as_coco as before.
#
# Seen with supervision 0.31.2 (with OpenCV 5.0.0 and without), pycocotools 2.0.11, Python 3.11.7, Linux x86-64:
#   square as RLE: 1600 pixels, by from_coco 1600; after as_coco 1521 (polygons: 1, area: 1600), by from_coco 1600
#   ring as RLE: 1200 pixels, by from_coco 1200; after as_coco 1521 (polygons: 2, area: 1200), by from_coco 1600
#   square as polygon: 1600 pixels, by from_coco 1681; after as_coco 1600 (polygons: 1, area: 1600), by from_coco 1681
# (Where nothing else is said, pycocotools counts.)
#
# A way around: write `segmentation` with pycocotools.mask.encode. use_iscrowd=False keeps the holes, but marks such masks as
# crowds, which COCO's evaluation does not count.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  supervision==0.31.2 opencv-python-headless==5.0.0.93 pycocotools==2.0.11 numpy==2.4.6 pillow==13.0.0 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
import supervision
from PIL import Image
from pycocotools import mask as coco

root = Path(sys.argv[1])
height, width = 100, 120
square = np.zeros((height, width), np.uint8, order="F")
square[20:60, 20:60] = 1
ring = square.copy(order="F")
ring[30:50, 30:50] = 0


def pixels(segmentation):
    """How many pixels pycocotools decodes: RLE, or the union of polygons."""
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
    return int(coco.decode(segmentation).sum())


def read(path):
    """How many pixels each mask has that from_coco reads, and the data set."""
    dataset = supervision.DetectionDataset.from_coco(str(root), str(path))
    (detections,) = dataset.annotations.values()
    return [int(mask.sum()) for mask in detections.mask], dataset


segmentations = {
    "square as RLE": {**coco.encode(square), "counts": coco.encode(square)["counts"].decode()},
    "ring as RLE": {**coco.encode(ring), "counts": coco.encode(ring)["counts"].decode()},
    "square as polygon": [[20.0, 20.0, 60.0, 20.0, 60.0, 60.0, 20.0, 60.0]],
}
common = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [20, 20, 40, 40]}
annotations = [
    {"id": index, "segmentation": segmentation, "area": pixels(segmentation), **common}
    for index, segmentation in enumerate(segmentations.values(), 1)
]
image = {"id": 1, "file_name": "1.png", "height": height, "width": width}
content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
Image.new("RGB", (width, height)).save(root / "1.png")
(root / "in.json").write_text(json.dumps(content))
first, dataset = read(root / "in.json")
dataset.as_coco(annotations_path=str(root / "out.json"))
written = json.loads((root / "out.json").read_text())["annotations"]
again, _ = read(root / "out.json")
seen = []
for name, before, has, after, reads in zip(segmentations, annotations, first, written, again):
    count, polygons = pixels(before["segmentation"]), after["segmentation"]
    seen.append((count, has, pixels(polygons), len(polygons), after["area"], reads))
    words = "{}: {} pixels, by from_coco {}; after as_coco {} (polygons: {}, area: {:.0f}), by from_coco {}"
    print(words.format(name, *seen[-1]))
described = [(1600, 1600, 1521, 1, 1600, 1600), (1200, 1200, 1521, 2, 1200, 1600), (1600, 1681, 1600, 1, 1600, 1681)]
sys.exit(0 if seen == described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
