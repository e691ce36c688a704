#!/bin/sh
# torch.onnx 2.14.1: `scaled_dot_product_attention` of 3 or 5 axes is exported by torch.export, but not to ONNX
#
# The documentation gives query, key and value the shapes (N, ..., L, E) and (N, ..., S, E): any number of axes before the
# last two. Eager mode and torch.export take 3, 4 and 5 axes. torch.onnx.export(dynamo=True) takes 4 alone. For the others
# it fails while it translates the graph; what is printed first is "Failed to convert the exported program to an ONNX
# model" and advice, and the reason, "only 4D query, key, and value are supported", is two causes further down.
#
# Input: a module that calls the function on one random tensor, of shapes (2, 5, 8), (2, 3, 5, 8) and (2, 4, 3, 5, 8).
# Expected: three ONNX files whose outputs in onnxruntime equal the module's.
#
# Seen with torch 2.14.1, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, Python 3.11.7, Linux x86-64:
#   3 axes: ConversionError, in the end because of AssertionError: only 4D query, key, and value are supported
#   4 axes: exported, equal to eager mode
#   5 axes: ConversionError, in the end because of AssertionError: only 4D query, key, and value are supported
#
# A way around: x.unsqueeze(1) before and squeeze(1) after for 3 axes; flatten axes into the first one for more.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6 || exit 2
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import onnxruntime
import torch

warnings.simplefilter("ignore")
torch.manual_seed(0)


class Attend(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def show(*shape):
    """What becomes of it: the difference between onnxruntime and eager mode, or the innermost error."""
    model, x = Attend(), torch.randn(shape)
    expected = model(x)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), expected, atol=1e-6)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(program, dynamo=True, verbose=False).save("attend.onnx")
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        print(f"{len(shape)} axes: {type(error).__name__}, in the end because of {type(cause).__name__}: {cause}")
        return str(cause)
    session = onnxruntime.InferenceSession("attend.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    difference = float((torch.from_numpy(found) - expected).abs().max())
    print(f"{len(shape)} axes: exported, {'equal' if difference < 1e-5 else 'not equal'} to eager mode")
    return difference < 1e-5


refused = "only 4D query, key, and value are supported"
outcomes = [show(2, 5, 8), show(2, 3, 5, 8), show(2, 4, 3, 5, 8)]
sys.exit(0 if outcomes == [refused, True, refused] else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/show.py"
