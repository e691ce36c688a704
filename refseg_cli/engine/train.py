"""Training: a run that can be killed at any moment and goes on as if nothing had happened.

Everything random in a step is a function of (seed, step, process) and the order of an epoch of (seed, epoch), so the
state of a run is its weights, its optimiser and its position. Several processes take each step together: its images are
dealt out among them, and its loss is the mean over all its expressions, so that N processes with B images each train as
one with N B does, up to rounding, dropout's draws and losses that set the batch's phrases against each other.

A run folder: `best/` and `last/` (checkpoint folders, the recipe in their config.json; `last` also holds
`training.pt`), `metrics.jsonl`, and TensorBoard events under `logs/` if asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from refseg_cli import checkpoint
from refseg_cli.checkpoint import Checkpoint
from refseg_cli.config import Recipe, TrainConfig, to_table
from refseg_cli.data import loader
from refseg_cli.data.loader import Share, StepDataset
from refseg_cli.data.mixture import Mixture, open_mixture
from refseg_cli.data.shards import MANIFESTS, Shards, read_manifest
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.engine.epochs import epoch_parts
from refseg_cli.engine.faults import Faults, enough_to_normalise, not_finite
from refseg_cli.engine.optimise import build_optimizer, moving_average, schedule, take_vectors, take_weights
from refseg_cli.engine.processes import accelerator_of, added, agreed, synchronise_norms, together
from refseg_cli.engine.recomputing import recompute_layers
from refseg_cli.engine.run_log import RunLog, claimed, flattened, peak_memory, stop_signals
from refseg_cli.engine.run_state import (
    Moving,
    Position,
    is_blind,
    nothing_to_resume,
    restore_state,
    resume_folder,
    save_state,
)
from refseg_cli.errors import ERROR, RefsegError, unknown_name
from refseg_cli.metrics.protocols import REFSEG
from refseg_cli.models import build_model
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Batch, Thresholds

LOG = "metrics.jsonl"
LOG_EVERY = 10  # optimiser steps between lines of metrics.jsonl


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train.

    data: folder or URI of prepared shards with a `train` split, or several to train on together.
    out: the run's folder.
    init: checkpoint whose tokenizer is taken over, and every weight that has the same name and shape; words of the
        training phrases that it does not know are added, and begin as unknown words.
    resume: go on from `out`/last; without it an existing run there is refused.
    tracker: further experiment log beside metrics.jsonl.
    shuffle_phrases: a language-blind control: in training, each batch's phrases are dealt out anew at random. A run
        that is resumed stays what it is.
    """

    recipe: Recipe
    data: str | Sequence[str]
    out: Path
    init: str | None = None
    resume: bool = False
    device: str = "auto"
    tracker: Literal["none", "tensorboard"] = "none"
    shuffle_phrases: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The URIs of `data`."""
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended. best: the validation metric of `best`, in percent; None before the first validation.

    stopped: `finished`, or the name of the signal that asked it to stop (its state is saved).
    """

    out: Path
    steps: int
    epochs: int
    best: float | None
    stopped: str
    scores: dict[str, float | None] = field(default_factory=dict)


def train(request: TrainRequest, *, progress: Progress = silent) -> TrainResult:
    """Train until the recipe's epochs are done or a signal asks to stop.

    Raises:
        RefsegError: data or recipe do not fit, shards are damaged, the run folder is taken or another process trains
            there, the loss is not finite, validation fails, the disk is full, another process of the run is gone. What
            was saved before stays, and the run can be resumed.
    """
    if request.resume and not request.out.is_dir():
        raise nothing_to_resume(request.out)
    if any((request.out / name).is_file() for name in MANIFESTS):
        raise RefsegError(f"{request.out}: holds prepared data", hint="a run needs a folder of its own")
    tracker = None if request.tracker == "none" else request.tracker
    accelerator = accelerator_of(request.recipe.train, device=request.device, tracker=tracker, logs=request.out)
    with together(accelerator), claimed(request.out) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            checkpoint.tidy(request.out)
        accelerator.wait_for_everyone()
        run = _Run(request, accelerator, progress)
        # A launcher passes on what reaches the processes as well: one more is no sign of impatience.
        with stop_signals(patience=1 if accelerator.num_processes == 1 else 2) as asked, enough_to_normalise():
            return run.loop(asked)


class _Run:
    """One training run: what it is made of, and its loop."""

    def __init__(self, request: TrainRequest, accelerator: Accelerator, progress: Progress) -> None:
        self.request, self.accelerator, self.progress = request, accelerator, progress
        self.recipe, self.config = request.recipe, request.recipe.train
        if self.config.best_metric not in (names := [metric.name for metric in REFSEG.metrics]):
            error = unknown_name("metric", self.config.best_metric, names)
            raise RefsegError(f"train.best_metric: {error.message}", hint=error.hint)
        resumed = resume_folder(request.out, self.recipe, resume=request.resume)
        self.blind = is_blind(resumed, asked=request.shuffle_phrases)
        torch.manual_seed(self.config.seed)
        self.shards = open_mixture(request.sources, "train")
        if isinstance(self.shards, Mixture):
            if left_out := int(self.shards.left_out.sum()):
                progress("images left out of training, as a set holds them out", left_out, len(self.shards))
            if repeated := self.shards.repeated:
                progress("images that count again, as their set is given again", repeated, len(self.shards))
        if self.recipe.text.field == "raw" and not self.shards.manifest.has_raw_sentences:
            raise RefsegError(
                f"{self.shards.uri}: holds no sentences as they were typed, which this recipe reads (text.field = raw)",
                hint="prepare the data again, or --set text.field=sent",
            )
        self.validation = self._validation_shards()
        if self.validation:
            self.validation.verify()  # or damage would come to light after an epoch
        if not self.shards.manifest.has_page_checksums:
            self.shards.verify()  # or damage would not come to light at all
        init = None if resumed or request.init is None else checkpoint.load(request.init)
        self.tokenizer = self._tokenizer(resumed, init)
        self.shards = self.shards.for_training()
        model = build_model(self.recipe, vocab_size=self.tokenizer.vocab_size)
        if init:
            taken = take_weights(model, init.model, unknown=self.tokenizer.unknown_id)
            progress(f"init from {request.init}", taken, len(model.state_dict()))
        elif not resumed and self.recipe.text.glove:
            take_vectors(model, Path(self.recipe.text.glove), self.tokenizer)
        model = synchronise_norms(model, accelerator)
        if self.config.gradient_checkpointing:
            recompute_layers(model)
        self.moving = self._moving(model)
        earlier = self.shards.manifest.plan
        self.position = restore_state(resumed, self.moving, earlier=earlier, **self._facts()) if resumed else Position()
        self.log = RunLog(
            request.out / LOG,
            self.position.step,
            validated=not self.position.due,
            active=self.accelerator.is_main_process,
        )
        if request.tracker != "none":
            self.accelerator.init_trackers("logs", config=flattened(to_table(self.recipe)))
        self.dataset = StepDataset(
            self.shards,
            self.tokenizer,
            self.recipe.data,
            field=self.recipe.text.field,
            augment=(self.config.seed, 0),
            unknown=self.recipe.text.unknown,
            shuffle_phrases=self.blind,
        )
        self.steps_per_epoch = len(self._epoch_steps(0))
        self.total = self.config.steps or self.config.epochs * math.ceil(self.steps_per_epoch / self.config.accumulate)
        self.last_scores: dict[str, float | None] = {}
        self.faults = Faults()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def loop(self, asked: Callable[[], str | None]) -> TrainResult:
        stopped = "finished"
        if self.position.due:  # broken off before it was done
            self._validate()
        while not self._done():
            stopped = self._epoch(asked)
            if stopped != "finished":
                break
            self._after_epoch()
        if stopped != "finished":
            self.save_last()
        self.accelerator.end_training()
        position = self.position
        return TrainResult(self.request.out, position.step, position.epoch, position.best, stopped, self.last_scores)

    def _done(self) -> bool:
        position, config = self.position, self.config
        return position.step >= config.steps if config.steps else position.epoch >= config.epochs

    def _epoch(self, asked: Callable[[], str | None]) -> str:
        position, accumulate, shares = self.position, self.config.accumulate, self._epoch_steps(self.position.epoch)
        self.dataset.augment = (self.config.seed, position.epoch)
        batches = loader.iterate(
            self.dataset,
            [share.step for share in shares[position.offset :]],
            workers=self.recipe.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.model.train()
        began, seen = time.perf_counter(), 0
        for batch in batches:
            share, last = shares[position.offset], position.offset + 1 == len(shares)
            boundary = (position.offset + 1) % accumulate == 0 or last
            group = min(accumulate, len(shares) - position.offset // accumulate * accumulate)
            terms = self._step(batch, share.weight, boundary=boundary, group=group)
            position.offset += 1
            seen += share.expressions
            if boundary:
                position.step += 1
                last = last or position.step == self.config.steps
                saves = position.step % self.config.save_every_steps == 0 and not last
                self._report(terms, seen / (time.perf_counter() - began))
                signalled = self._look(asked, certainly=last or saves)
                if saves:
                    self.save_last()
                if signalled and not last:
                    return asked() or "a signal to another process"
                if last:
                    break
        return "finished"

    def _look(self, asked: Callable[[], str | None], *, certainly: bool) -> bool:
        """Whether a signal reached any process; one collective. Losses that are not finite end the run.

        A GPU is waited for only every `LOG_EVERY` steps, when its figures are read anyway.

        Raises:
            RefsegError: a loss was not finite; in one of the processes, the others end.
        """
        if not (certainly or self.accelerator.device.type == "cpu" or self.position.step % LOG_EVERY == 0):
            return self.accelerator.num_processes == 1 and asked() is not None
        signalled, failed = agreed(self.accelerator, asked() is not None, bool(self.faults))
        if failed:
            step, told = self.faults.first(self.accelerator)
            if not self.accelerator.is_main_process:
                raise SystemExit(ERROR)  # one of them says it
            raise not_finite("the loss", self.position.epoch, step, self.request.out / "last", f": {told}")
        return signalled

    def _step(self, batch: Batch, weight: float, *, boundary: bool, group: int) -> dict[str, Tensor]:
        """One micro-batch; the optimiser moves at the boundary of `group` accumulated ones.

        The terms are times `weight`: their mean over processes is that of the step.
        """
        position, config = self.position, self.config
        rank = self.accelerator.process_index
        torch.manual_seed(_mix(config.seed, position.epoch, position.offset, rank))
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            prediction = self.model(batch)
            terms = {name: weight * term for name, term in self.moving.model.losses(prediction, batch).items()}  # type: ignore[operator]
        loss = torch.stack(list(terms.values())).sum()
        figures = {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}
        self.faults.note(position.step + 1, figures)
        with nullcontext() if boundary else self.accelerator.no_sync(self.model):
            self.accelerator.backward(loss / group)
        if boundary:
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = parameters["peak"] * schedule(
                    position.step, self.total, self.steps_per_epoch, config
                )
            if config.clip_norm:
                self.moving.clip(self.accelerator, config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.moving.average is not None:
                self.moving.average.update_parameters(self.moving.model)
        return figures

    def _report(self, terms: dict[str, Tensor], rate: float) -> None:
        position = self.position
        if position.step % LOG_EVERY and position.step != 1:
            return
        figures = self._means(terms)
        if not math.isfinite(figures["loss"]):
            return  # `_look` says it
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.log.write({"step": position.step, "epoch": position.epoch, **figures, "lr": lr}, rate=round(rate, 2))
        if self.request.tracker != "none":
            self.accelerator.log({**{f"train/{k}": v for k, v in figures.items()}, "train/lr": lr}, step=position.step)
        shown = {"loss": f"{figures['loss']:.4f}", "expr/s": f"{rate:.1f}", "mem": peak_memory(self.accelerator.device)}
        self.progress("train", position.step, self.total, epoch=position.epoch + 1, **shown)

    def _means(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Over processes: of the whole step."""
        values = added(torch.stack([term.detach() for term in terms.values()]), self.accelerator)
        return dict(zip(terms, (values / self.accelerator.num_processes).tolist(), strict=True))

    def _after_epoch(self) -> None:
        """Save where the run stands, and validate if it is time."""
        position, config = self.position, self.config
        position.epoch, position.offset = position.epoch + 1, 0
        position.due = position.epoch % config.eval_every_epochs == 0 or self._done()
        self.save_last()  # first: whatever befalls the validation, the epoch is not lost
        if position.due:
            self._validate()

    def _validate(self) -> None:
        """Score the weights and keep the best; without a validation split these are the newest."""
        position, config = self.position, self.config
        if self.validation is None:
            self._save(self.request.out / "best", {})
            position.due = False
            return
        try:
            self.last_scores = self._scores(self.validation)
        except RefsegError as error:
            hints = (error.hint, f"the epoch is saved in {self.request.out}, --resume goes on with its validation")
            raise RefsegError(
                f"validation after epoch {position.epoch}: {error.message}", hint="; ".join(filter(None, hints))
            ) from error
        self.log.write({"step": position.step, "epoch": position.epoch - 1, config.eval_split: self.last_scores})
        if self.request.tracker != "none":
            known = {f"{config.eval_split}/{k}": v for k, v in self.last_scores.items() if v is not None}
            self.accelerator.log(known, step=position.step)
        value = self.last_scores[config.best_metric]
        score = float("-inf") if value is None else value
        if position.best is None or score > position.best:
            position.best = score
            self._save(self.request.out / "best", self.last_scores)
        position.due = False
        self.save_last()

    def _scores(self, split: Shards) -> dict[str, float | None]:
        """Every metric of the weights that count, in percent."""
        from refseg_cli.evaluation.evaluate import joined
        from refseg_cli.evaluation.parts import Part
        from refseg_cli.evaluation.scoring import evaluate_model

        self.moving.gather()
        model = self.moving.evaluated.to(self.accelerator.device).eval()
        evaluated = evaluate_model(
            model,
            self.tokenizer,
            self.recipe,
            Thresholds(),
            split,
            device=self.accelerator.device,
            limit=self.config.eval_limit,
            part=(part := Part(self.accelerator.process_index, self.accelerator.num_processes)),
            progress=self.progress,
        )
        return joined(evaluated, part, None).scores.table()

    # ---- state ----------------------------------------------------------------------------------------------------

    def save_last(self) -> None:
        facts = {"optimizer": self.moving.optimizer_state(), **self._facts()}  # of all processes
        extra = partial(save_state, moving=self.moving, position=self.position, **facts)
        self._save(self.request.out / "last", self.last_scores, extra=extra)

    def _save(self, folder: Path, scores: dict[str, float | None], extra: Callable[[Path], None] | None = None) -> None:
        self.accelerator.wait_for_everyone()
        self.moving.gather()
        if not self.accelerator.is_main_process:
            return
        if name := checkpoint.not_finite(self.moving.evaluated):
            raise not_finite(name, self.position.epoch, self.position.step, self.request.out / "last")
        info = {"step": self.position.step, "epoch": self.position.epoch, "scores": scores, "data": self._data_name()}
        info[checkpoint.BLIND] = self.blind
        checkpoint.save(folder, self.moving.evaluated, self.recipe, self.tokenizer, info=info, extra=extra)

    def _facts(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {"data": self.shards.manifest.fingerprint, "processes": self.accelerator.num_processes}

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _moving(self, model: nn.Module) -> Moving:
        """What is trained, on its device; sets `model` and `optimizer`."""
        accelerator = self.accelerator
        if self.config.shard_model:
            from refseg_cli.engine import fsdp

            self.model, plain = fsdp.pieces_of(model, accelerator.device, accelerator.num_processes, self.config)
            self.optimizer = accelerator.prepare(build_optimizer(self.model, self.config))
            for group in self.optimizer.param_groups:
                group["foreach"] = False  # which takes no pieces and whole tensors at once
            return fsdp.ShardedMoving(self.model, None, self.optimizer, None, plain)
        model.to(memory_format=torch.channels_last)  # convolutions: 1.3 times as fast on a CPU, tensor cores want it
        self.model, self.optimizer = accelerator.prepare(model, build_optimizer(model, self.config))
        # `prepare` makes the model run in mixed precision wherever it is called. `_step` asks for that itself, and
        # validation is to measure what `refseg eval` does: single precision.
        accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        whole = accelerator.unwrap_model(self.model)
        return Moving(whole, moving_average(whole, self.config), self.optimizer, accelerator.scaler)

    def _tokenizer(self, resumed: Path | None, init: Checkpoint | None) -> Tokenizer:
        text = self.recipe.text
        if resumed:
            return Tokenizer.load(resumed, spelling=text.spelling)
        phrases = (e.phrase(text.field) for i in range(len(self.shards)) for e in self.shards[i].expressions)
        if init:
            # As long as this model has places for, and its recipe says.
            known = Tokenizer.load(init.folder, spelling=text.spelling, max_tokens=text.max_tokens)
            return known.learning(phrases, text)
        return build_tokenizer(text, phrases if text.tokenizer == "words" else ())

    def _validation_shards(self) -> Shards | None:
        name = self.config.eval_split
        splits = {uri: read_manifest(uri).splits for uri in self.request.sources}
        having = [uri for uri, known in splits.items() if name in known]
        if name and not having and name != TrainConfig().eval_split:  # which not every data set has
            raise unknown_name("train.eval_split", name, [known for one in splits.values() for known in one])
        return open_mixture(having, name) if having else None

    def _data_name(self) -> str:
        return self.shards.manifest.dataset

    def _epoch_steps(self, epoch: int) -> list[Share]:
        """This process's part of each micro-batch of an epoch."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        parts = epoch_parts(self.shards, self.recipe, epoch, world)
        return [loader.share_of(part, rank, world) for part in parts]


def _mix(*numbers: int) -> int:
    """One seed from several numbers, without neighbours resembling each other."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
