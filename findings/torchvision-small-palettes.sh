#!/bin/sh
# torchvision 0.29.1: masks in PNG files with a palette of up to 16 colours are read as packed bytes, not as indices
#
# Of a PNG file with a palette, `decode_image` in its default mode, UNCHANGED ("as-is"), gives the indices: the usual way of
# reading masks such as DAVIS's and VOC's. But PNG stores indices below 2, 4 or 16 in 1, 2 or 4 bits if it is asked to, as
# Pillow does wherever the palette has no more colours, and as optimisers such as OptiPNG do. Then each byte of a row, with 8,
# 4 or 2 indices in it, is given as one pixel, and the rest of the row is left as it was. Shape and type are right, and nothing
# warns. Modes RGB and GRAY unpack the indices, and so does UNCHANGED for grey files of 1 bit, as of Pillow's mode "1".
# The documentation says nothing of palettes, and no issue of it was found. Issue 2823 asked for palettes as masks. In
# torchcodec, which is to replace torchvision.io, pull request 1543 made colours of them.
#
# Input: one mask of 64 x 64 pixels, all of object 1, written by Pillow with palettes of 2, 3, 10, 16, 17 and 256 colours.
# Expected: 1 everywhere, as Pillow reads it.
#
# Seen with torchvision 0.29.1, torch 2.14.1, Pillow 13.0.0, Python 3.11.7, Linux x86-64:
#   2 colours, 1 bits: object 1 in a share of 0.00, the first columns are 255; by Pillow 1.00, colours in RGB right
#   3 colours, 2 bits: object 1 in a share of 0.00, the first columns are 85; by Pillow 1.00, colours in RGB right
#   10 colours, 4 bits: object 1 in a share of 0.00, the first columns are 17; by Pillow 1.00, colours in RGB right
#   16 colours, 4 bits: object 1 in a share of 0.00, the first columns are 17; by Pillow 1.00, colours in RGB right
#   17 colours, 8 bits: object 1 in a share of 1.00, the first columns are 1; by Pillow 1.00, colours in RGB right
#   256 colours, 8 bits: object 1 in a share of 1.00, the first columns are 1; by Pillow 1.00, colours in RGB right
# (The share is of the columns that are filled: 64 x bits / 8.)
#
# A way around: read masks by Pillow, or write palettes of 256 colours.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import io
import sys
import warnings

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_image

warnings.simplefilter("ignore")
seen = []
for colours in (2, 3, 10, 16, 17, 256):
    picture = Image.new("P", (64, 64), color=1)
    picture.putpalette([number for index in range(colours) for number in (index, 255 - index, 7)])
    file = io.BytesIO()
    picture.save(file, "PNG")
    bits = file.getvalue()[24]  # IHDR's bit depth
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    mask, rgb = decode_image(data), decode_image(data, mode="RGB")
    pillow = np.asarray(Image.open(file))
    filled = mask[0, :, : 64 * bits // 8]
    right = bool((rgb == torch.tensor([1, 254, 7])[:, None, None]).all()) and tuple(mask.shape) == (1, 64, 64)
    share, first = float((filled == 1).float().mean()), filled.unique().tolist()
    seen.append((bits, share, first, float((pillow == 1).mean()), right))
    words = "{} colours, {} bits: object 1 in a share of {:.2f}, the first columns are {}; by Pillow {:.2f}, colours in RGB {}"
    print(words.format(colours, bits, share, *first, seen[-1][3], "right" if right else "wrong"))
bytes_of = {1: 255, 2: 85, 4: 17}
described = [(bits, float(bits == 8), [bytes_of.get(bits, 1)], 1.0, True) for bits in (1, 2, 4, 4, 8, 8)]
sys.exit(0 if seen == described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
