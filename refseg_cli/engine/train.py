"""Training: a run that can be killed at any moment and goes on as if nothing had happened.

Everything random in a step is a function of (seed, step, rank) and the order of an epoch of (seed, epoch), so the
state of a run is its weights, its optimiser and its position.

A run folder: `best/` and `last/` (checkpoint folders, the recipe in their config.json; `last` also holds
`training.pt`), `metrics.jsonl`, and TensorBoard events under `logs/` if asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refseg_cli import checkpoint
from refseg_cli.config import Recipe, TrainConfig, to_table
from refseg_cli.data import loader
from refseg_cli.data.loader import Step, StepDataset
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer, build_tokenizer, read_glove
from refseg_cli.engine.optimise import build_optimizer, schedule, take_weights
from refseg_cli.engine.run_log import RunLog, flattened, peak_memory, stop_signals
from refseg_cli.errors import RefsegError
from refseg_cli.models import build_model
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Batch, Thresholds
from refseg_cli.segmenters.inference import pick_device

STATE, LOG = "training.pt", "metrics.jsonl"
LOG_EVERY = 10  # optimiser steps between lines of metrics.jsonl


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train.

    data: folder or URI of prepared shards with a `train` split.  out: the run's folder.
    init: checkpoint whose tokenizer is taken over, and every weight that has the same name and shape.
    resume: go on from `out`/last; without it an existing run there is refused.
    tracker: further experiment log beside metrics.jsonl.
    shuffle_phrases: a language-blind control: in training, each batch's phrases are dealt out anew at random.
    """

    recipe: Recipe
    data: str
    out: Path
    init: str | None = None
    resume: bool = False
    device: str = "auto"
    tracker: Literal["none", "tensorboard"] = "none"
    shuffle_phrases: bool = False


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


@dataclass(slots=True)
class Position:
    """How far a run has come: `step` optimiser steps in all, `offset` micro-batches into `epoch`."""

    epoch: int = 0
    offset: int = 0
    step: int = 0
    best: float | None = None


def train(request: TrainRequest, *, progress: Progress = silent) -> TrainResult:
    """Train until the recipe's epochs are done or a signal asks to stop.

    Raises:
        RefsegError: data or recipe do not fit, shards are damaged, the run folder is taken, the loss is not finite, the
            disk is full.
    """
    run = _Run(request, progress)
    with stop_signals() as asked:
        return run.loop(asked)


class _Run:
    """One training run: what it is made of, and its loop."""

    def __init__(self, request: TrainRequest, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self.recipe, self.config = request.recipe, request.recipe.train
        checkpoint.recover(request.out / "last")
        resumed = self._resume_folder()
        torch.manual_seed(self.config.seed)
        self.shards = open_shards(request.data, "train")
        self.validation = self._validation_shards()
        if self.validation:
            self.validation.verify(progress)  # or damage would come to light after an epoch
        if not self.shards.manifest.has_page_checksums:
            self.shards.verify(progress)  # or damage would not come to light at all
        init = None if resumed or request.init is None else checkpoint.load(request.init)
        self.tokenizer = Tokenizer.load(resumed) if resumed else init.tokenizer if init else self._new_tokenizer()
        model = build_model(self.recipe, vocab_size=self.tokenizer.vocab_size)
        if init:
            taken = take_weights(model, init.model)
            progress(f"init from {request.init}", taken, len(model.state_dict()))
        elif not resumed:
            self._load_glove(model)
        model.to(memory_format=torch.channels_last)  # convolutions: 1.3 times as fast on a CPU, tensor cores want it
        self.accelerator = _accelerator(self.config, request)
        optimizer = build_optimizer(model, self.config)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # `prepare` makes the model run in mixed precision wherever it is called. `_step` asks for that itself, and
        # validation is to measure what `refseg eval` does: single precision.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.average = self._new_average()
        self.position = Position()
        if resumed:
            self._restore(resumed)
        self.log = RunLog(request.out / LOG, self.position.step, active=self.accelerator.is_main_process)
        if request.tracker != "none":
            self.accelerator.init_trackers("logs", config=flattened(to_table(self.recipe)))
        self.dataset = StepDataset(
            self.shards,
            self.tokenizer,
            self.recipe.data,
            field=self.recipe.text.field,
            augment=(self.config.seed, 0),
            shuffle_phrases=request.shuffle_phrases,
        )
        self.steps_per_epoch = len(self._epoch_steps(0))
        self.total = self.config.epochs * math.ceil(self.steps_per_epoch / self.config.accumulate)
        self.last_scores: dict[str, float | None] = {}

    # ---- the loop -------------------------------------------------------------------------------------------------

    def loop(self, asked: Callable[[], str | None]) -> TrainResult:
        stopped = "finished"
        while self.position.epoch < self.config.epochs:
            stopped = self._epoch(asked)
            if stopped != "finished":
                break
            self.position.epoch, self.position.offset = self.position.epoch + 1, 0
            self._after_epoch()
        if stopped != "finished":
            self.save_last()
        self.accelerator.end_training()
        position = self.position
        return TrainResult(self.request.out, position.step, position.epoch, position.best, stopped, self.last_scores)

    def _epoch(self, asked: Callable[[], str | None]) -> str:
        position, accumulate = self.position, self.config.accumulate
        steps = self._epoch_steps(position.epoch)
        self.dataset.augment = (self.config.seed, position.epoch)
        batches = loader.iterate(
            self.dataset,
            steps[position.offset :],
            workers=self.recipe.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.model.train()
        began, seen = time.perf_counter(), 0
        for batch in batches:
            last = position.offset + 1 == len(steps)
            boundary = (position.offset + 1) % accumulate == 0 or last
            group = min(accumulate, len(steps) - position.offset // accumulate * accumulate)
            terms = self._step(batch, boundary=boundary, group=group)
            position.offset += 1
            seen += len(batch)
            if boundary:
                position.step += 1
                self._report(terms, seen / (time.perf_counter() - began))
                if position.step % self.config.save_every_steps == 0 and not last:
                    self.save_last()
                if (name := asked()) is not None and not last:
                    return name
        return "finished"

    def _step(self, batch: Batch, *, boundary: bool, group: int) -> dict[str, Tensor]:
        """One micro-batch; the optimiser moves at the boundary of `group` accumulated ones."""
        position, config = self.position, self.config
        rank = self.accelerator.process_index
        torch.manual_seed(_mix(config.seed, position.epoch, position.offset, rank))
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            prediction = self.model(batch)
            terms = self.accelerator.unwrap_model(self.model).losses(prediction, batch)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise self._not_finite(terms)
        with nullcontext() if boundary else self.accelerator.no_sync(self.model):
            self.accelerator.backward(loss / group)
        if boundary:
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = parameters["peak"] * schedule(
                    position.step, self.total, self.steps_per_epoch, config
                )
            if config.clip_norm:
                self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _not_finite(self, terms: dict[str, Tensor]) -> RefsegError:
        figures = ", ".join(f"{name}={float(term.detach()):.4g}" for name, term in terms.items())
        p = self.position
        return RefsegError(
            f"the loss is not finite at epoch {p.epoch}, step {p.step}: {figures}",
            hint=f"{self.request.out}/last holds the last good state; lower train.lr, set train.clip_norm, or use fp32",
        )

    def _report(self, terms: dict[str, Tensor], rate: float) -> None:
        position = self.position
        if position.step % LOG_EVERY and position.step != 1:
            return
        figures = {name: float(value) for name, value in terms.items()}
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.log.write({"step": position.step, "epoch": position.epoch, **figures, "lr": lr}, rate=round(rate, 2))
        if self.request.tracker != "none":
            self.accelerator.log({**{f"train/{k}": v for k, v in figures.items()}, "train/lr": lr}, step=position.step)
        shown = {"loss": f"{figures['loss']:.4f}", "expr/s": f"{rate:.1f}", "mem": peak_memory(self.accelerator.device)}
        self.progress("train", position.step, self.total, epoch=position.epoch + 1, **shown)

    def _after_epoch(self) -> None:
        """Validate if it is time, keep the best, and save where the run stands."""
        position, config = self.position, self.config
        due = position.epoch % config.eval_every_epochs == 0 or position.epoch == config.epochs
        if due and self.validation is not None:
            from refseg_cli.evaluation.evaluate import evaluate_model

            model = self.evaluated_model()
            model.eval()
            evaluated = evaluate_model(
                model,
                self.tokenizer,
                self.recipe,
                Thresholds(),
                self.validation,
                device=self.accelerator.device,
                limit=config.eval_limit,
                progress=self.progress,
            )
            self.last_scores = evaluated.scores.table()
            self.log.write({"step": position.step, "epoch": position.epoch - 1, config.eval_split: self.last_scores})
            if self.request.tracker != "none":
                known = {f"{config.eval_split}/{k}": v for k, v in self.last_scores.items() if v is not None}
                self.accelerator.log(known, step=position.step)
            score = _metric(self.last_scores, config.best_metric)
            if position.best is None or score > position.best:
                position.best = score
                self._save(self.request.out / "best", self.last_scores)
        elif due:
            self._save(self.request.out / "best", {})
        self.save_last()

    # ---- state ----------------------------------------------------------------------------------------------------

    def evaluated_model(self) -> nn.Module:
        """The weights that count: the moving average if there is one."""
        return self.accelerator.unwrap_model(self.model) if self.average is None else self.average.module

    def save_last(self) -> None:
        self._save(self.request.out / "last", self.last_scores, extra=self._save_state)

    def _save(self, folder: Path, scores: dict[str, float | None], extra: Callable[[Path], None] | None = None) -> None:
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        info = {"step": self.position.step, "epoch": self.position.epoch, "scores": scores, "data": self._data_name()}
        checkpoint.save(folder, self.evaluated_model(), self.recipe, self.tokenizer, info=info, extra=extra)

    def _save_state(self, folder: Path) -> None:
        position = self.position
        state: dict[str, Any] = {
            "position": [position.epoch, position.offset, position.step, position.best],
            "optimizer": self.optimizer.state_dict(),
            "data": self.shards.manifest.fingerprint,
            "processes": self.accelerator.num_processes,
        }
        if self.average is not None:
            state["weights"] = self.accelerator.unwrap_model(self.model).state_dict()
            state["averaged"] = self.average.n_averaged
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        torch.save(state, folder / STATE)

    def _restore(self, folder: Path) -> None:
        from safetensors.torch import load_model

        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise RefsegError(f"{folder / STATE}: cannot read: {str(error).splitlines()[0]}") from error
        manifest = self.shards.manifest
        if state["data"] not in (manifest.fingerprint, manifest.plan):  # the plan: a run of an earlier build
            raise RefsegError(
                f"{self.request.data}: not the data that this run began with",
                hint="resume with the same prepared shards, or begin another run with --out",
            )
        if state["processes"] != self.accelerator.num_processes:
            raise RefsegError(
                f"this run began with {state['processes']} processes, not {self.accelerator.num_processes}",
                hint="an exact resume needs the same number",
            )
        model = self.accelerator.unwrap_model(self.model)
        if self.average is None:
            load_model(model, folder / checkpoint.WEIGHTS)
        else:
            load_model(self.average.module, folder / checkpoint.WEIGHTS)
            model.load_state_dict(state["weights"])
            self.average.n_averaged.copy_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.position = Position(*state["position"])

    def _resume_folder(self) -> Path | None:
        last = self.request.out / "last"
        exists = (last / checkpoint.CONFIG).is_file()
        if not self.request.resume:
            if exists:
                raise RefsegError(
                    f"{self.request.out}: holds a training run already",
                    hint="--resume goes on with it; or another --out",
                )
            return None
        if not exists:
            raise RefsegError(f"{self.request.out}: no run to resume here", hint="leave --resume away to begin one")
        recipe, _, _ = checkpoint.read_config(last)
        if _trained(recipe) != _trained(self.recipe):
            raise RefsegError(
                f"{self.request.out}: the run began with another recipe",
                hint="resume with the same --recipe and --set, or begin another run with --out",
            )
        return last

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _new_tokenizer(self) -> Tokenizer:
        text = self.recipe.text
        phrases = (e.phrase(text.field) for i in range(len(self.shards)) for e in self.shards[i].expressions)
        return build_tokenizer(text, phrases if text.tokenizer == "words" else ())

    def _load_glove(self, model: nn.Module) -> None:
        if not self.recipe.text.glove:
            return
        table, _ = read_glove(Path(self.recipe.text.glove), self.tokenizer)
        embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        if embedding is None or embedding.weight.shape != table.shape:
            wanted = None if embedding is None else tuple(embedding.weight.shape)
            raise RefsegError(
                f"{self.recipe.text.glove}: vectors {tuple(table.shape)} do not fit the embedding {wanted}",
                hint="set model.embedding_dim to the vectors' length",
            )
        with torch.no_grad():
            embedding.weight.copy_(table)

    def _new_average(self) -> AveragedModel | None:
        if not self.config.ema:
            return None
        model = self.accelerator.unwrap_model(self.model)
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema))

    def _validation_shards(self) -> Shards | None:
        name = self.config.eval_split
        splits = self.shards.manifest.splits
        return open_shards(self.request.data, name) if name and name in splits else None

    def _data_name(self) -> str:
        return self.shards.manifest.dataset

    def _epoch_steps(self, epoch: int) -> list[Step]:
        """This process's micro-batches of an epoch; every process gets equally many."""
        config, rng = self.config, np.random.default_rng((self.config.seed, epoch))
        steps: list[Step]
        if config.same_object >= 0:
            steps = loader.contrastive_steps(
                self.shards.target_ids(),
                batch=config.batch_images,
                same=config.same_object,
                different=round(config.different_object * config.batch_images),
                rng=rng,
            )
        else:
            steps = loader.grouped_steps(
                self.shards.expression_counts,
                batch_images=config.batch_images,
                phrases=self.recipe.data.phrases_per_image,
                rng=rng,
            )
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return steps[rank : len(steps) - len(steps) % world : world]


def _accelerator(config: TrainConfig, request: TrainRequest) -> Accelerator:
    device = pick_device(request.device)
    if config.precision == "fp16" and device.type != "cuda":
        raise RefsegError(f"train.precision=fp16 needs CUDA, not {device.type}", hint="bf16 or fp32 run everywhere")
    tracker = None if request.tracker == "none" else request.tracker
    if tracker == "tensorboard":
        _need_tensorboard()
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        log_with=tracker,
        project_dir=str(request.out),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _need_tensorboard() -> None:
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise RefsegError("--tracker tensorboard needs TensorBoard", hint="pip install 'refseg[tensorboard]'")


def _trained(recipe: Recipe) -> Recipe:
    """The recipe as far as it decides the figures: how often a run saves and who loads its data does not."""
    data = replace(recipe.data, workers=0)
    return replace(recipe, data=data, train=replace(recipe.train, save_every_steps=0))


def _metric(scores: dict[str, float | None], name: str) -> float:
    if name not in scores:
        raise RefsegError(f"train.best_metric: no metric {name!r}", hint=f"one of: {', '.join(scores)}")
    value = scores[name]
    return float("-inf") if value is None else value


def _mix(*numbers: int) -> int:
    """One seed from several numbers, without neighbours resembling each other."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
