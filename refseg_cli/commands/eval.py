"""`refseg eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.commands._clips import KeptMasks, by_clip, keep_or_refuse, scored_by_clip, submit
from refseg_cli.commands._eval_options import (
    AskSanity,
    Calibrate,
    Curves,
    Limit,
    MaskCount,
    MaskWords,
    Merge,
    OnError,
    Page,
    Palette,
    Records,
    Sanity,
    Settings,
    Slices,
    Source,
    Splits,
    Submission,
    TrainedOn,
    Words,
)
from refseg_cli.commands._given import fitting, one_of, refuse_besides, unread
from refseg_cli.commands._options import (
    BatchImages,
    Compile,
    Data,
    Device,
    Json,
    Latex,
    Markdown,
    Memory,
    Model,
    Precision,
    Protocols,
    Quiet,
    Resamples,
    choose_memory,
    choose_protocols,
    choose_splits,
)
from refseg_cli.commands._tables import Form, chosen_form, show
from refseg_cli.commands.calibrate import choose, describe, thresholds
from refseg_cli.commands.compare import show_differences
from refseg_cli.console import console
from refseg_cli.errors import RefsegError
from refseg_cli.metrics.protocols import VIDEO

if TYPE_CHECKING:
    from refseg_cli.commands._clips import ClipRequest
    from refseg_cli.commands._scores import Rows
    from refseg_cli.evaluation.analysis import Analysis
    from refseg_cli.evaluation.answers import Answers
    from refseg_cli.evaluation.disturb import Disturbance
    from refseg_cli.evaluation.evaluate import EvalReport, EvalRequest
    from refseg_cli.evaluation.outside import OutsideRequest
    from refseg_cli.evaluation.watching import Watch
    from refseg_cli.records import Rle
    from refseg_cli.report.content import PackedMap


NO_MAPS = "--compile: a compiled model has no maps for --report"
AS_IT_IS = "--calibrate stores thresholds of the model without --set"


def eval_(
    data: Data,
    model: Model = None,
    overrides: Settings = None,
    split: Splits = "val",
    protocol: Protocols = "",
    limit: Limit = 0,
    calibrate: Calibrate = None,
    source: Source = None,
    on_error: OnError = "fail",
    merge: Merge = None,
    slices: Slices = False,
    curves: Curves = False,
    page: Page = None,
    records: Records = None,
    submission: Submission = None,
    palette: Palette = False,
    trained_on: TrainedOn = None,
    mask_words: MaskWords = None,
    mask_count: MaskCount = 1,
    sanity: AskSanity = None,
    resamples: Resamples = 10_000,
    batch_images: BatchImages = 8,
    precision: Precision = "fp32",
    memory: Memory = None,
    compile: Compile = False,
    device: Device = "auto",
    json: Json = False,
    markdown: Markdown = False,
    latex: Latex = False,
    quiet: Quiet = False,
) -> None:
    """Score a model, or anybody's predictions, on prepared data.

    Prints the protocol's metrics of each split in percent, with 95 % intervals from how much images differ, and the
    paper's figures beside them where the recipe has some that were counted by the same protocol. Where nothing defines
    a metric, as N-acc without no-target phrases, there is a dash (null in JSON). The protocols are explained in
    docs/metrics.md; if none is named, it is refseg, and for clips video: J&F, J, F and steadiness.

    \b
    Example:
      refseg eval --data scenes --protocol all --records answers.parquet
      refseg eval --data scenes --from answers.parquet --slices
      refseg eval --data scenes --split val,testA --report report.html
      refseg eval --data scenes --sanity shuffled-phrases
      refseg eval --data refcoco --model runs/isfp --set model.oracle=location
      refseg eval --data clips --submission answers.zip
    """
    from refseg_cli.evaluation.evaluate import EvalRequest
    from refseg_cli.evaluation.outside import OutsideRequest
    from refseg_cli.evaluation.scoring import BATCH_IMAGES
    from refseg_cli.segmenters.compiling import Compiling

    form = chosen_form(json=json, markdown=markdown, latex=latex)
    splits = choose_splits(split)
    page, disturb = _page_or_disturbance(page, mask_words, mask_count, sanity, source)
    clips = keep_or_refuse(data, splits, submission, palette=palette)
    wanted = _Wanted(choose_protocols(protocol, clips=clips.any), slices, curves, resamples, trained_on, form)
    path = _place(page, source)
    _refuse_unshown(wanted, disturb, clips, {"--protocol": protocol, "--report": page})
    _spare(data, [Path(output) for output in (records, page, submission) if output])
    needs_masks = path is not None or submission is not None or VIDEO.name in wanted.protocols
    if source is not None:
        asked = {"--model": model, "--set": overrides, "--calibrate": calibrate, "--limit": limit, "--memory": memory}
        asked |= {"--precision": precision != "fp32", "--compile": compile, "--device": device != "auto"}
        asked |= {"--batch-images": batch_images != BATCH_IMAGES, "--mask-words": mask_words, "--sanity": sanity}
        _refuse_with_from(asked)
        outside = OutsideRequest(source, data, splits, wanted.counted, on_error == "skip", needs_masks, records, merge)
        _present(_score_file(outside), wanted, data, path, clips)
        return
    _refuse_without_from({"--on-error": on_error != "fail", "--merge": merge})
    if one_of({"--compile": compile, "--report": page}, why=NO_MAPS)[0] == "--report":
        compile = False
    if one_of({"--calibrate": calibrate, "--set": overrides}, why=AS_IT_IS)[0] == "--calibrate":
        overrides = None
    options = {"device": device, "batch_images": batch_images, "precision": precision, "memory": choose_memory(memory)}
    options |= {"compile": Compiling() if compile else None, "overrides": tuple(overrides or ())}
    plain = EvalRequest(data, splits, model, limit=limit, records=records, protocols=wanted.counted)
    request = fitting(partial(_checked, plain), {**options, "curve": curves or path is not None})
    _ask(request, wanted, path, clips, calibrate=calibrate, disturb=disturb, masks=needs_masks)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What of the answers is shown, and how."""

    protocols: tuple[str, ...]
    slices: bool
    curves: bool
    resamples: int
    trained_on: str | None
    form: Form

    @property
    def counted(self) -> tuple[str, ...]:
        """The protocols that count each picture by itself; one, if none is asked for."""
        return tuple(name for name in self.protocols if name != VIDEO.name) or ("refseg",)


@dataclass(frozen=True, slots=True)
class _Found:
    """The answers of each split, with the papers' figures beside them.

    masks, maps: of all answers, split after split, for the page; empty where there is none.
    cautions: what its figures' reader has to know.
    """

    answers: Mapping[str, Answers]
    published: Rows = field(default_factory=dict)
    masks: Sequence[Rle] = ()
    maps: Mapping[int, tuple[PackedMap, ...]] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def _checked(request: EvalRequest, **options: Any) -> EvalRequest:
    """The request with the options, if its model has a use for them."""
    from refseg_cli.evaluation.asked import check

    request = replace(request, **options)
    check(request)
    return request


def _refuse_with_from(options: Mapping[str, object]) -> None:
    for name in unread(options):
        raise RefsegError(f"--from scores finished predictions: {name} needs a model", hint="omit one of them")


def _refuse_without_from(options: Mapping[str, object]) -> None:
    for name in unread(options):
        raise RefsegError(f"{name} applies to --from", hint="add --from FILE, or omit it")


def _refuse_unshown(
    wanted: _Wanted, disturb: Disturbance | None, clips: ClipRequest, scores: Mapping[str, object]
) -> None:
    """scores: further options, by name, that ask for figures, which a split without masks does not have."""
    shown = {"--slices": wanted.slices, "--curves": wanted.curves, "--trained-on": wanted.trained_on}
    if disturb is not None:
        refuse_besides("--mask-words or --sanity", shown | {"--submission": clips.submission})
    if clips.only_to_submit:
        refuse_besides("a split without masks", {**shown, **scores})


def _page_or_disturbance(
    page: str | None, words: Words | None, count: int, sanity: Sanity | None, source: str | None
) -> tuple[str | None, Disturbance | None]:
    """The one of them that is asked for: a page shows questions as they are, and finished answers know no others."""
    what: dict[str, Words | Sanity | None] = {"--mask-words": words, "--sanity": sanity} if source is None else {}
    option = one_of({**what, "--report": page})[0]
    if option != "--mask-words":
        for name in unread({"--mask-count": count > 1}):
            raise RefsegError(f"{name} needs --mask-words", hint="add --mask-words random, or omit it")
    kind = what.get(option or "")
    if kind is None:
        return page, None
    from refseg_cli.evaluation.disturb import Disturbance

    return None, Disturbance(kind, count if option == "--mask-words" else 1)


def _place(page: str | None, source: str | None) -> Path | None:
    """Where the report goes, if one is asked for: found wrong before an evaluation of hours, not behind it."""
    if page is None:
        return None
    from refseg_cli.evaluation.report import check_place
    from refseg_cli.files import refuse_input

    if source is not None:
        refuse_input(Path(page), Path(source))
    check_place(Path(page))
    return Path(page)


def _spare(data: str, outputs: Sequence[Path]) -> None:
    """Refuse an output that would replace a file of the data."""
    from refseg_cli.data.shards import MANIFESTS, read_manifest
    from refseg_cli.files import refuse_input

    for output in filter(Path.is_file, outputs):
        shards = [file.name for split in read_manifest(data).splits.values() for file in split.files]
        for name in (*MANIFESTS, *shards):
            refuse_input(output, Path(data) / name)


def _score_file(request: OutsideRequest) -> _Found:
    from refseg_cli.evaluation.outside import score_file

    with console.progress() as progress:
        found = score_file(request, progress=progress)
    for problem in found.problems.examples(3):
        console.warn(str(problem))
    left_out = (f"{request.source}: left out: {found.problems}",) if found.problems.found else ()
    return _Found(found.answers, masks=found.masks, cautions=(*left_out, *found.cautions))


def _score_model(request: EvalRequest, protocols: Sequence[str], *, masks: bool, maps: bool) -> _Found:
    """masks, maps: keep these too."""
    from refseg_cli.evaluation.provenance import published_rows
    from refseg_cli.evaluation.watching import Watch

    drawn = Watch(request.model) if maps else None
    kept = KeptMasks() if masks and not maps else None
    report = _evaluate(request, drawn or kept)
    published = published_rows(report, protocols)
    if drawn is not None:
        return _Found(_answers(report), published, drawn.masks, drawn.maps)
    return _Found(_answers(report), published, kept.masks if kept else ())


def _answers(report: EvalReport) -> dict[str, Answers]:
    return {name: evaluation.answers for name, evaluation in report.evaluations.items()}


def _calibrate(request: EvalRequest, split: str) -> None:
    console.info(describe(choose(request, split)))
    if split in request.splits:
        console.warn(f"{split}: the thresholds were calibrated on this split, so its figures are optimistic")


def _evaluate(request: EvalRequest, watch: Watch | KeptMasks | None = None) -> EvalReport:
    from refseg_cli.evaluation.evaluate import evaluate

    with console.progress() as progress:
        report = evaluate(request, watch=watch, progress=progress)
    changed = f"{report.about.changed}; " if report.about.changed else ""
    console.info(
        f"{changed}{thresholds(report.thresholds)}; "
        + "; ".join(
            f"{name}: {len(e.answers)} expressions, {e.images} images, {e.expressions_per_second:.0f} expr/s"
            for name, e in report.evaluations.items()
        )
    )
    if request.compile and request.compile.sizes:
        console.info(request.compile.told())
    return report


def _ask(
    request: EvalRequest,
    wanted: _Wanted,
    path: Path | None,
    clips: ClipRequest,
    *,
    calibrate: str | None,
    disturb: Disturbance | None,
    masks: bool,
) -> None:
    """Ask the model, and show what it answers. masks: keep them."""
    from refseg_cli.evaluation.parts import sharing

    with sharing():
        if calibrate:
            _calibrate(request, calibrate)
        if disturb is not None:
            _show_disturbed(request, disturb, wanted)
            return
        found = _score_model(request, wanted.protocols, masks=masks, maps=path is not None)
        _present(found, wanted, request.data, path, clips)


def _show_disturbed(request: EvalRequest, disturb: Disturbance, wanted: _Wanted) -> None:
    """The figures as they are and with disturbed questions, and how sure their difference is."""
    from refseg_cli.commands._scores import heading
    from refseg_cli.evaluation.analysis import compare
    from refseg_cli.metrics.protocols import PROTOCOLS

    # First what not every model can be asked, so that nobody waits for an evaluation to hear it.
    after = _answers(_evaluate(replace(request, disturb=disturb, records=None)))
    plain = _evaluate(request)
    found = {
        (split, name): compare(before, after[split], PROTOCOLS[name], swaps=wanted.resamples)
        for split, before in _answers(plain).items()
        for name in wanted.counted
    }
    names = (plain.about.changed or "as it is", str(disturb))
    titles = {(split, name): f"{heading(plain.about)}, {split}: {name}" for split, name in found}
    show_differences(found, names, names, titles, wanted.form)


def _present(found: _Found, wanted: _Wanted, data: str, path: Path | None, clips: ClipRequest) -> None:
    """Print what the answers say, and write the page and the submission if they are asked for."""
    submit(data, found.answers, found.masks, clips)
    if clips.only_to_submit:
        return
    own = {name: by_clip(data, name, answers) if clips.any else answers for name, answers in found.answers.items()}
    analyses = _analyses(replace(found, answers=own), wanted, whole=path is not None)
    if VIDEO.name in wanted.protocols:
        analyses = scored_by_clip(data, found.answers, found.masks, analyses, wanted.protocols, wanted.resamples > 0)
    shown = {name: analysis.only(slices=wanted.slices, curves=wanted.curves) for name, analysis in analyses.items()}
    said = _warn(found, wanted, shown)
    try:
        if path:  # before anything is printed, as a closed pipe ends the process
            _write_page(path, data, found, analyses, said)
    finally:  # the figures are told though the page cannot be written
        _show(found, shown, wanted, said)


def _analyses(found: _Found, wanted: _Wanted, *, whole: bool) -> dict[str, Analysis]:
    """whole: with slices and curves, whether or not they are printed."""
    from refseg_cli.evaluation.analysis import analyse

    slices, curves = whole or wanted.slices, whole or wanted.curves
    protocols = [name for name in wanted.counted if name not in _unfit(found, wanted.counted)] or wanted.counted
    return {
        name: analyse(answers, protocols, slices=slices, curves=curves, intervals=wanted.resamples > 0)
        for name, answers in found.answers.items()
    }


def _unfit(found: _Found, protocols: Sequence[str]) -> dict[str, str]:
    """Those protocols that no split has anything for, and why, in words."""
    from refseg_cli.evaluation.analysis import unfit
    from refseg_cli.metrics.protocols import PROTOCOLS

    reasons = {name: [unfit(answers, PROTOCOLS[name]) for answers in found.answers.values()] for name in protocols}
    return {name: said[0] for name, said in reasons.items() if said[0] and all(said)}


def _warn(found: _Found, wanted: _Wanted, splits: Mapping[str, Analysis]) -> list[str]:
    """What a reader of the figures is warned of."""
    from refseg_cli.commands._scores import warnings
    from refseg_cli.evaluation.provenance import cautions

    about = next(iter(found.answers.values())).about
    said = [f"{name}: {reason}" for name, reason in _unfit(found, wanted.counted).items()]
    said += [*found.cautions, *cautions(about, list(splits), trained_on=wanted.trained_on)]
    said += warnings(splits, found.published, intervals=wanted.resamples > 0)
    for sentence in said:
        console.warn(sentence)
    return said


def _show(found: _Found, splits: Mapping[str, Analysis], wanted: _Wanted, said: Sequence[str]) -> None:
    """Print everything. said: what was warned of."""
    from refseg_cli.commands._scores import curve_tables, report_json, score_tables, slice_table, subset_tables

    about = next(iter(found.answers.values())).about
    if wanted.form == "json":
        console.json(report_json(about, splits, found.published, said))
        return
    tables = score_tables(about, splits, found.published)
    for name, analysis in splits.items():
        tables += [slice_table(about, name, analysis), *subset_tables(about, name, analysis)] if wanted.slices else []
        tables += curve_tables(about, name, analysis) if wanted.curves else []
    show(tables, wanted.form)


def _write_page(path: Path, data: str, found: _Found, analyses: Mapping[str, Analysis], said: Sequence[str]) -> None:
    """The report; said: what the figures' reader was warned of."""
    from refseg_cli.evaluation.report import build_report, write_report

    with console.progress() as progress:
        report = build_report(
            data,
            found.answers,
            analyses,
            found.masks,
            found.maps,
            published=found.published,
            cautions=said,
            progress=progress,
        )
        write_report(report, path)
    console.info(f"{len(report.samples)} samples -> {path}")
