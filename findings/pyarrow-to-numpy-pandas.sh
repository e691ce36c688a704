#!/bin/sh
# pyarrow 26.0.1: reading one column of numbers as a NumPy array imports pandas, wherever pandas happens to be installed
#
# `to_numpy` of an Array or a ChunkedArray and `numpy.asarray` of an Array do, though no value needs it: int64 and
# float64 without nulls, which they hand over without a copy. A program that reads a Parquet file and knows nothing of
# pandas pays for its import: most of the processor time of a short run, and some
# 50 MB. `numpy.from_dlpack` and `to_pylist` do not; `pyarrow.parquet.read_table` does, `ParquetFile.read` does not.
#
# Input: a Parquet file of one int64 column, read by pyarrow.parquet.
# Expected: no module of pandas in sys.modules, as nobody asked for it.
#
# Seen with pyarrow 26.0.1, numpy 2.4.6, pandas 3.1.1, Python 3.11.7, Linux x86-64:
#   from_dlpack: 0 modules of pandas
#   to_pylist: 0 modules of pandas
#   to_numpy: 294 modules of pandas (0.25 s of processor time; 117 MiB in all, 71 without)
#   asarray: 294 modules of pandas
#
# A way around: `numpy.from_dlpack(column.combine_chunks())` for numbers without nulls; flags after a cast to uint8.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1 || exit 2
cat > "$folder/read.py" <<'PYTHON'
import resource
import sys
import time

from pyarrow import parquet

way, path = sys.argv[1:]
column = parquet.ParquetFile(path).read().column(0).combine_chunks()
import numpy

began = time.process_time()
{
    "from_dlpack": lambda: numpy.from_dlpack(column),
    "to_pylist": column.to_pylist,
    "to_numpy": column.to_numpy,
    "asarray": lambda: numpy.asarray(column),
}[way]()
seconds = time.process_time() - began
modules = sum(name.split(".")[0] == "pandas" for name in sys.modules)
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(f"{way}: {modules} modules of pandas ({seconds:.2f} s of processor time, {most} MiB in all)")
sys.exit((modules > 0) != (way in ("to_numpy", "asarray")))
PYTHON
"$folder/venv/bin/python" -c "
import sys
import pyarrow
from pyarrow import parquet
parquet.write_table(pyarrow.table({'n': [3, 1, 2]}), sys.argv[1])
" "$folder/numbers.parquet"
for way in from_dlpack to_pylist to_numpy asarray; do
  "$folder/venv/bin/python" "$folder/read.py" "$way" "$folder/numbers.parquet"
done
