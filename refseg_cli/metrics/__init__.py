"""How answers are scored. Count first, divide last: masks become integer counts, and every ratio is formed once, here.

    rules.py       what a protocol is: grids, thresholds, rules for "no target", figures
    protocols.py   what each published evaluator does, as declared records (imports nothing: `--help` reads it)
    instance_protocols.py  those of them that count boxes and instances instead of pixels
    counts.py      pixels of predicted and true masks, as columns of expressions
    scores.py      the one scorer: counts and a protocol in, metrics out
    instances.py   how boxes overlap, and which instances belong together
    concepts.py    figures that are no ratios of sums: cgF1 and its parts
    video.py       J, F and steadiness, of the masks of a video
    exact.py       fractions whose sums do not depend on order or processor
    pictures.py    exact sums over each picture's phrases, which the next two rest on
    intervals.py   how far a metric, or a difference, can be believed, from how much pictures differ
    swaps.py       whether two models differ, by swapping their answers
    slices.py      which expressions are about colours, positions, several targets ...
    tuning.py      the thresholds that would have given the highest gIoU
    curves.py      what other thresholds would have given, and how far probabilities can be believed

Axes: n expressions (the papers' samples, or sentences), m metrics, c clusters (images). Fractions in [0, 1], NaN where
nothing defines one; only what is shown to people is in percent.
"""
