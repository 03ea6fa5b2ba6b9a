"""A recipe -> a trained model; one loop, the stages are data.

Run: `visualglm pretrain RECIPE.toml`; run again after a kill, it goes on where it was saved. What each kind of stage
learns stands in `losses`. The learning rate follows the wall-clock (or the steps, where a stage has them), so a run
ends when it should, fully annealed.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..checkpoints.checkpoint import LM_HEAD, WORD_EMBEDDINGS
from ..errors import UsageError
from ..files.atomic import append_line
from ..preprocessing.tokenizer import ChatGLMTokenizer
from ..training.distributed import broadcast_object, join, leave, rank, shard, whole_state, world, wrapped
from ..training.optimizer_state import moments, restore
from ..training.worker_errors import plain_worker_errors
from .batches import Batch, BatchShare, PromptBuilder
from .build_model import build_initial_model
from .caption_batches import CaptionBatches
from .config import PretrainingConfig, RunConfig, Stage
from .losses import Objective, answer_logits
from .optimizer import adamw, set_rate
from .run_state import RunState, fixed, read_run_state, saving

LOG_EVERY = 50
COLLAPSED = 0.05  # queries that differ less than this within a picture have become one vector
ROWS_PER_STAGE = 100_000_000  # rows set aside for every stage
R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class Answered:
    """One validation row: its task, whether every token is right, and the likeliest ids of its answer."""

    task: str
    exact: bool
    ids: list[int]


class BaseTrainer(ABC, Generic[R]):
    """The state of a run: model, throw-away parts, optimizer, and how far it got. Subclasses bring the data."""

    def __init__(self, recipe: R, report: Callable[[str], None] = print) -> None:
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)
        self.recipe, self.folder, self.report = recipe, Path(recipe.output), report
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = join()
        self.tokenizer = ChatGLMTokenizer(recipe.vocabulary)
        self.vocabulary, self.fixed = Path(recipe.vocabulary).read_bytes(), fixed(recipe)
        self.model = build_initial_model(recipe, self.tokenizer)
        if self.device.type == "cpu":
            self.model.set_attn_implementation("eager")  # sdpa's backward pass is slower here
        self.objective = self.build_objective()
        config = self.model.config
        self.prompts = PromptBuilder(self.tokenizer, config.image_length, int(config.image_token_id or 0))
        self.check()
        self.stage_index, self.step, self.seconds = 0, 0, 0.0
        if not self._resume():
            self.initialize()
        self.objective.to(self.device)
        if self.sharded:
            shard(self.objective)

    def build_objective(self) -> Objective:
        """The losses of the stages."""
        return Objective(self.model)

    def check(self) -> None:
        """Tells what does not fit before the work begins.

        Raises:
            UsageError: a vocabulary that is larger than the model's.
        """
        vocab_size, size = self.model.config.vocab_size, len(self.tokenizer.sp_model)
        if vocab_size <= size:
            raise UsageError(
                f"vocab_size {vocab_size} is too small: {self.recipe.vocabulary} has {size} pieces, and one more."
            )

    def initialize(self) -> None:
        """Sets weights of a new run's model."""

    def before_step(self, stage: Stage) -> None:
        """Called before every step of a stage."""

    @abstractmethod
    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """The batches of a stage from the `first` on; every stage and every process has others."""

    def run(self) -> None:
        """Runs the stages that are left."""
        if self.stage_index >= len(self.recipe.stages) and not rank():
            self.report(f"{self.folder} is finished already: add a stage, or give another output.")
        while self.stage_index < len(self.recipe.stages):
            with plain_worker_errors():
                self._run_stage(self.recipe.stages[self.stage_index])
            self.stage_index, self.step, self.seconds = self.stage_index + 1, 0, 0.0
            self.save()
            self.optimizer_file.unlink(missing_ok=True)
        leave()

    @property
    def sharded(self) -> bool:
        return self.recipe.sharding == "fsdp" and world() > 1

    @property
    def optimizer_file(self) -> Path:
        return self.folder / f"optimizer-{rank()}.safetensors"

    def _run_stage(self, stage: Stage) -> None:
        named = self.objective.learning(stage.kind)
        optimizer, module = self._optimizer(stage, named), wrapped(self.objective, self.recipe.sharding)
        self.log(stage=stage.name, learning=sum(p.numel() for p in named.values()))
        started = saved = time.monotonic()
        before, meter = self.seconds, Meter()
        for batch in self._loaded(stage):
            self.seconds = before + time.monotonic() - started
            share = broadcast_object(self.step / stage.steps if stage.steps else self.seconds / (60 * stage.minutes))
            if share >= 1:
                break
            set_rate(optimizer, stage, share)
            self.before_step(stage)
            meter.add(self.train_step(stage, batch, optimizer, module))
            self.step += 1
            if self.step % LOG_EVERY == 0:
                self._tell(stage, meter)
                meter = Meter()
            if broadcast_object(time.monotonic() - saved > 60 * self.recipe.save_minutes):
                meter.began += self._save_and_validate(stage, optimizer)
                saved = time.monotonic()

    def _loaded(self, stage: Stage) -> DataLoader[Batch]:
        """The batches that are left of a stage, made ahead by workers."""
        workers, data = self.recipe.workers, self.batches(stage, self.step)
        return DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None)

    def _tell(self, stage: Stage, meter: Meter) -> None:
        rate = meter.steps * world() * stage.pictures / (time.monotonic() - meter.began)
        shown = {"minutes": self.seconds / 60, "pictures_per_second": rate, **meter.means()}
        self.log(stage=stage.name, step=self.step, **shown)

    def _save_and_validate(self, stage: Stage, optimizer: torch.optim.Optimizer) -> float:
        """How many seconds that took: no steps are made in them."""
        began = time.monotonic()
        self.save(optimizer)
        self.log(stage=stage.name, step=self.step, **self.validate(stage))
        return time.monotonic() - began

    def train_step(
        self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer, module: nn.Module | None = None
    ) -> dict[str, float]:
        """One step; what it reports is float."""
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            loss, report = (module or self.objective)(stage, batch.to(self.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        if report.get("query_std", 1.0) < COLLAPSED:
            self.log(alarm="the queries have collapsed into one vector", query_std=report["query_std"])
        return {"loss": float(loss.detach()), "gradient": float(norm), **report}

    def validate(self, stage: Stage) -> dict[str, object]:
        """Share of validation answers that are right to the last token, per task; nothing of a sharded model."""
        return {} if self.sharded else exact_shares(list(self.validation_answers(stage)))

    @torch.no_grad()
    def validation_answers(self, stage: Stage, batches: int = 3) -> Iterator[Answered]:
        """The answers to a few validation batches.

        Teacher forcing: where every token is the likeliest one, greedy decoding writes the same answer.
        """
        self.model.eval()
        for _, batch in zip(range(batches), self.batches(stage, 0, validation=True), strict=False):
            batch = batch.to(self.device)
            image_embeds = None if batch.pixel_values is None else self.model.encode_images(batch.pixel_values)
            for rows in batch.rows:
                best = answer_logits(self.model, rows, image_embeds).argmax(-1)
                exact = ((best == rows.targets) | (rows.targets < 0)).all(dim=1).tolist()
                yield from map(Answered, rows.tasks, exact, best.tolist())

    def share(self, stage: Stage, first: int) -> BatchShare:
        """This process's batches of the present stage from the `first` on."""
        return BatchShare(first, rank(), world(), self.stage_index * ROWS_PER_STAGE // stage.pictures)

    def _optimizer(self, stage: Stage, named: dict[str, nn.Parameter]) -> torch.optim.AdamW:
        """AdamW; its state comes back after a kill."""
        optimizer = adamw(stage, named)
        if self.step and self.optimizer_file.exists():
            restore(optimizer, named, self._load(self.optimizer_file))
        return optimizer

    def save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Writes weights, throw-away parts, optimizer and progress, all of one step; every process must call it."""
        with saving(self.folder) as folder:
            if optimizer is not None and not self.sharded:
                named = self.objective.learning(self.recipe.stages[self.stage_index].kind)
                save_file(moments(optimizer, named), folder / self.optimizer_file.name)
            state = whole_state(self.objective)
            if not rank():
                self._write(folder, state)

    def _write(self, folder: Path, state: dict[str, Tensor]) -> None:
        model = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        self.model.save_pretrained(folder / "model", state_dict=model)
        (folder / "model" / "ice_text.model").write_bytes(self.vocabulary)
        rest = {name: value.contiguous() for name, value in state.items() if not name.startswith("model.")}
        save_file(rest, folder / "throwaway.safetensors")
        RunState(self.stage_index, self.step, self.seconds, self.fixed).write(folder)

    def _resume(self) -> bool:
        progress = read_run_state(self.folder, self.fixed)
        if progress is None:
            return False
        self.stage_index, self.step, self.seconds = progress.stage, progress.step, progress.seconds
        weights = self._load(self.folder / "model" / "model.safetensors")
        self.model.load_state_dict({**self._tied(weights), **weights})
        self.objective.load_state_dict(self._load(self.folder / "throwaway.safetensors"), strict=False)
        return True

    def _load(self, file: Path) -> dict[str, Tensor]:
        """The tensors of a file that the run saved.

        Raises:
            UsageError: it is damaged, and there is no older one.
        """
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"{file} is damaged ({error}): delete {self.folder} to begin again, or give another output."
            ) from error

    def _tied(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The head that a file leaves out because it is the table of words."""
        return {LM_HEAD: weights[WORD_EMBEDDINGS]} if self.model.config.tie_word_embeddings else {}

    def log(self, **values: object) -> None:
        """One JSON line to the reporter and to the run's log."""
        if rank():
            return
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        line = json.dumps(rounded, ensure_ascii=False)
        self.report(line)
        append_line(self.folder / "log.jsonl", line)


class Trainer(BaseTrainer[PretrainingConfig]):
    """Training on your own pictures."""

    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """The batches of a stage from the `first` on; every stage and every process has others."""
        share = share or self.share(stage, first)
        return CaptionBatches(
            self.recipe.captions, stage, self.prompts, self.model.config.vision.image_size, validation, share
        )


def exact_shares(answered: Sequence[Answered]) -> dict[str, object]:
    """Under `exact`, the share of right answers per task; nothing where nothing was asked."""
    right: dict[str, list[bool]] = {}
    for one in answered:
        right.setdefault(one.task, []).append(one.exact)
    shares = {task: round(sum(hits) / len(hits), 3) for task, hits in sorted(right.items())}
    return {"exact": shares} if shares else {}


class Meter:
    """Means of what steps reported since it `began`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.sums: dict[str, float] = {}
        self.steps = 0

    def add(self, values: dict[str, float]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()}
