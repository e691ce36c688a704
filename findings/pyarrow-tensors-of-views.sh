#!/bin/sh
# pyarrow 26.0.1: pictures that NumPy flipped come back scrambled from a FixedShapeTensorArray
#
# from_numpy_ndarray sorts an array's axes by their strides to tell how it lies in memory, flattens it so, and notes the order
# as a permutation. Two things go wrong. The negative stride of a flipped axis counts as the smallest, so the order that is
# noted is not that of the flattened values. And what is noted of three axes or more is the inverse of the permutation. Flips,
# rotations and transpositions of NumPy are such views. to_numpy_ndarray and to_tensor then give wrong values, mostly in the
# right shape, and so do Parquet files of them. Where the wrong order leads out of the buffer there is an error, "strides must
# not involve buffer over run"; else nothing warns. from_tensor and from_dlpack refuse negative strides, but note the inverse
# too. The documentation says that a copy is made of data that is not contiguous. No issue about it was found.
#
# Input: 4 pictures of 6 x 8 pixels with random bytes, their 3 channels last or first, and 4 masks of 6 x 6 pixels.
# Expected: to_numpy_ndarray gives what from_numpy_ndarray was given, as after np.ascontiguousarray.
#
# Seen with pyarrow 26.0.1, numpy 2.4.6, Python 3.11.7, Linux x86-64:
#   channels last: (4, 6, 8, 3), 100 % right; from Parquet 100 %
#   channels last, mirrored: (4, 6, 8, 3), 9 % right; from Parquet 9 %
#   channels first: (4, 3, 6, 8), 100 % right; from Parquet 100 %
#   channels first, upside down: (4, 3, 6, 8), 5 % right; from Parquet 5 %
#   channels first, moved last: (4, 8, 3, 6) in place of (4, 6, 8, 3)
#   masks: (4, 6, 6), 100 % right; from Parquet 100 %
#   masks, upside down: (4, 6, 6), 61 % right; from Parquet 61 %
#   masks, turned by 180 degrees: (4, 6, 6), 53 % right; from Parquet 53 %
# (Contiguous copies of the same are 100 % right.)
#
# A way around: np.ascontiguousarray before from_numpy_ndarray.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  pyarrow==26.0.1 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import io
import sys

import numpy as np
import pyarrow
from pyarrow import parquet

random = np.random.default_rng(0)
last, first = (random.integers(0, 256, shape, dtype=np.uint8) for shape in ((4, 6, 8, 3), (4, 3, 6, 8)))
masks = random.integers(0, 2, (4, 6, 6), dtype=np.uint8)


def back(array):
    """The array as it comes back from memory and from a Parquet file."""
    tensors, file = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(array), io.BytesIO()
    parquet.write_table(pyarrow.table({"tensors": tensors}), file)
    read = parquet.read_table(file).column("tensors").combine_chunks()
    return tensors.to_numpy_ndarray(), read.to_numpy_ndarray()


def show(words, array):
    """(percents of right values, from memory and from the file; None where the shape is wrong)"""
    assert all(np.array_equal(copy, array) for copy in back(np.ascontiguousarray(array)))
    memory, file = back(array)
    if memory.shape != array.shape:
        print(f"{words}: {memory.shape} in place of {array.shape}")
        return None
    seen = [round(100 * float((found == array).mean())) for found in (memory, file)]
    print("{}: {}, {} % right; from Parquet {} %".format(words, memory.shape, *seen))
    return seen


seen = [
    show("channels last", last),
    show("channels last, mirrored", last[:, :, ::-1]),
    show("channels first", first),
    show("channels first, upside down", first[:, :, ::-1]),
    show("channels first, moved last", first.transpose(0, 2, 3, 1)),
    show("masks", masks),
    show("masks, upside down", masks[:, ::-1]),
    show("masks, turned by 180 degrees", np.rot90(masks, 2, axes=(1, 2))),
]
sys.exit(0 if seen == [[100] * 2, [9] * 2, [100] * 2, [5] * 2, None, [100] * 2, [61] * 2, [53] * 2] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
