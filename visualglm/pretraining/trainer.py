"""Train a model from a recipe.

`visualglm pretrain RECIPE.toml` starts a run, and resumes it from the last save after an interruption. All stages use
one loop; losses.py defines the losses of each kind of stage. The learning rate follows the wall-clock time (or the
steps, if a stage has them), so a run ends on time and fully annealed.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..checkpoints.checkpoint import LM_HEAD, WORD_EMBEDDINGS
from ..checkpoints.storage.lazy_tensor import first_not_finite
from ..checkpoints.tensor_check import differences
from ..errors import UsageError
from ..files.atomic import append_line
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.sentencepiece_vocabulary import VOCABULARY_FILE
from ..preprocessing.tokenizer import ChatGLMTokenizer
from ..training.distributed import broadcast_object, join, leave, rank, shard, whole_state, world, wrap_data_parallel
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
COLLAPSED_STD = 0.05  # below this standard deviation within an image, the queries have collapsed into one vector
ROWS_PER_STAGE = 100_000_000  # rows reserved for each stage, so that stages never share data
SHARDS = "shards"
"""Key in the metadata of an optimizer file: `BaseTrainer.shards`."""
R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class Answered:
    """One validation row: its task, whether every token is right, and the most likely ids of its answer."""

    task: str
    exact: bool
    ids: list[int]


class BaseTrainer(ABC, Generic[R]):
    """State of a run: model, training-only parts, optimizer, progress. Subclasses provide the data."""

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
            self.model.set_attn_implementation("eager")  # on a CPU, sdpa's backward pass is slower
        self.prompts = PromptBuilder(VisualGLMProcessor.for_config(self.model.config, self.tokenizer))
        self.objective = self.build_objective()
        self.check()
        self.stage_index, self.step, self.seconds = 0, 0, 0.0
        if not self._resume():
            self.initialize()
        self.objective.to(self.device)
        if self.sharded:
            shard(self.objective)

    def build_objective(self) -> Objective:
        """Create the module that computes the losses of the stages."""
        return Objective(self.model)

    def check(self) -> None:
        """Check that recipe and vocabulary fit, before training starts.

        Raises:
            UsageError: the vocabulary is larger than the model's.
        """
        vocab_size, size = self.model.config.vocab_size, len(self.tokenizer.sp_model)
        if vocab_size <= size:
            raise UsageError(
                f"vocab_size {vocab_size} is too small. {self.recipe.vocabulary} has {size} pieces, so give at least "
                f"{size + 1} (one more for the image placeholder token)."
            )

    def initialize(self) -> None:
        """Initialize weights of a new run's model; does nothing unless overridden."""

    def before_step(self, stage: Stage) -> None:
        """Run before each step of a stage; does nothing unless overridden."""

    @abstractmethod
    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """Yield the batches of a stage from the `first` on; every stage and every process has others."""

    def run(self) -> None:
        """Run the remaining stages."""
        if self.stage_index >= len(self.recipe.stages) and not rank():
            self.report(f"{self.folder} is already finished. Add a stage, or give another output.")
        while self.stage_index < len(self.recipe.stages):
            with plain_worker_errors():
                self._run_stage(self.recipe.stages[self.stage_index])
            self.stage_index, self.step, self.seconds = self.stage_index + 1, 0, 0.0
            self.save()
            self.optimizer_file.unlink(missing_ok=True)
        leave()

    @property
    def sharded(self) -> bool:
        """True if FSDP splits the weights between processes."""
        return self.recipe.sharding == "fsdp" and world() > 1

    @property
    def shards(self) -> int:
        """The number of processes that hold a part of each weight; 1 if each holds whole weights."""
        return world() if self.sharded else 1

    @property
    def optimizer_file(self) -> Path:
        """The file of the optimizer state: one for all processes, or one for the shards of each."""
        return self.folder / f"optimizer-{rank() if self.sharded else 0}.safetensors"

    def _run_stage(self, stage: Stage) -> None:
        named = self.objective.learning(stage.kind)
        optimizer, module = self._optimizer(stage, named), wrap_data_parallel(self.objective, self.recipe.sharding)
        self.log(stage=stage.name, learning=sum(p.numel() for p in named.values()))
        started = saved = time.monotonic()
        before, meter = self.seconds, Meter()
        for batch in self._loader(stage):
            self.seconds = before + time.monotonic() - started
            progress = broadcast_object(self.step / stage.steps if stage.steps else self.seconds / (60 * stage.minutes))
            if progress >= 1:
                break
            set_rate(optimizer, stage, progress)
            self.before_step(stage)
            meter.add(self.train_step(stage, batch, optimizer, module))
            self.step += 1
            if self.step % LOG_EVERY == 0:
                self._log_progress(stage, meter)
                meter = Meter()
            if broadcast_object(time.monotonic() - saved > 60 * self.recipe.save_minutes):
                meter.began += self._save_and_validate(stage, optimizer)
                saved = time.monotonic()

    def _loader(self, stage: Stage) -> DataLoader[Batch]:
        """Load the remaining batches of a stage, prefetched by worker processes."""
        workers, data = self.recipe.workers, self.batches(stage, self.step)
        return DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None)

    def _log_progress(self, stage: Stage, meter: Meter) -> None:
        rate = meter.steps * world() * stage.images / (time.monotonic() - meter.began)
        values = {"minutes": self.seconds / 60, "images_per_second": rate, **meter.means()}
        self.log(stage=stage.name, step=self.step, **values)

    def _save_and_validate(self, stage: Stage, optimizer: torch.optim.Optimizer) -> float:
        """Save and validate; return the seconds that this took, to exclude them from the training speed."""
        began = time.monotonic()
        self.save(optimizer)
        self.log(stage=stage.name, step=self.step, **self.validate(stage))
        return time.monotonic() - began

    def train_step(
        self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer, module: nn.Module | None = None
    ) -> dict[str, float]:
        """Run one optimizer step; return values to report."""
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            loss, report = (module or self.objective)(stage, batch.to(self.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        self._check_step(float(loss.detach()), float(norm))
        optimizer.step()
        if report.get("query_std", 1.0) < COLLAPSED_STD:
            self.log(alarm="the queries have collapsed into one vector", query_std=report["query_std"])
        return {"loss": float(loss.detach()), "gradient": float(norm), **report}

    def _check_step(self, loss: float, norm: float) -> None:
        """Raise `UsageError` before a loss or gradient that is not finite changes the weights."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UsageError(
                f"Training stopped at step {self.step}: the loss is {loss:g} and the gradient {norm:g}. Lower the rate "
                f"of the stage, and run again to resume from the last save in {self.folder}."
            )

    def validate(self, stage: Stage) -> dict[str, object]:
        """Return the fraction of validation answers with every token right, per task; empty for a sharded model."""
        return {} if self.sharded else exact_shares(list(self.validation_answers(stage)))

    @torch.no_grad()
    def validation_answers(self, stage: Stage, batches: int = 3) -> Iterator[Answered]:
        """Yield the answers to a few validation batches, by teacher forcing.

        If every token of an answer is the most likely one, greedy decoding generates the same answer.
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
        """Describe this process's batches of the current stage, after the first `first` ones."""
        return BatchShare(first, rank(), world(), self.stage_index * ROWS_PER_STAGE // stage.images)

    def _optimizer(self, stage: Stage, named: dict[str, nn.Parameter]) -> torch.optim.AdamW:
        """Create AdamW and restore its state if the stage is resumed.

        Raises:
            UsageError: the state is damaged, or was saved in other shards.
        """
        optimizer = adamw(stage, named)
        if self.step and self.optimizer_file.exists():
            saved = self._load(self.optimizer_file)
            self._check_shards()
            restore(optimizer, named, saved)
        return optimizer

    def _check_shards(self) -> None:
        with safe_open(self.optimizer_file, "pt") as file:
            saved = int((file.metadata() or {}).get(SHARDS, 1))
        if saved != self.shards:
            raise UsageError(
                f"{self.optimizer_file} is one of {saved} shards, and this run has {self.shards}. Continue with the "
                f"sharding and the number of processes of the run, or delete {self.folder}/optimizer-*.safetensors to "
                "continue with a new optimizer."
            )

    def save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write weights, training-only parts, optimizer state and progress; every process must call it."""
        with saving(self.folder) as folder:
            if optimizer is not None and (self.sharded or not rank()):
                named = self.objective.learning(self.recipe.stages[self.stage_index].kind)
                file = folder / self.optimizer_file.name
                save_file(moments(optimizer, named), file, metadata={SHARDS: str(self.shards)})
            state = whole_state(self.objective)
            if not rank():
                self._write(folder, state)

    def _write(self, folder: Path, state: dict[str, Tensor]) -> None:
        model = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        self.model.save_pretrained(folder / "model", state_dict=model)
        (folder / "model" / VOCABULARY_FILE).write_bytes(self.vocabulary)
        rest = {name: value.contiguous() for name, value in state.items() if not name.startswith("model.")}
        save_file(rest, folder / "throwaway.safetensors")
        RunState(self.stage_index, self.step, self.seconds, self.fixed).write(folder)

    def _resume(self) -> bool:
        progress = read_run_state(self.folder, self.fixed)
        if progress is None:
            return False
        self.stage_index, self.step, self.seconds = progress.stage, progress.step, progress.seconds
        file = self.folder / "model" / "model.safetensors"
        weights = self._load(file)
        if self.model.config.tie_word_embeddings and WORD_EMBEDDINGS in weights:  # the file stores only these
            weights = {LM_HEAD: weights[WORD_EMBEDDINGS], **weights}
        both = (weights, self.model.state_dict())
        faults = differences(*({name: tuple(value.shape) for name, value in them.items()} for them in both))
        if faults:
            raise self._damaged(file, "; ".join(faults))
        self.model.load_state_dict(weights)
        self.objective.load_state_dict(self._load(self.folder / "throwaway.safetensors"), strict=False)
        return True

    def _load(self, file: Path) -> dict[str, Tensor]:
        """Load the tensors of a file of this run.

        Raises:
            UsageError: the file is damaged or missing, or holds NaN or infinite values.
        """
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise self._damaged(file, str(error)) from error
        broken = first_not_finite(tensors)
        if broken is not None:
            raise self._damaged(file, f"{broken} holds NaN or infinite values")
        return tensors

    def _damaged(self, file: Path, fault: str) -> UsageError:
        return UsageError(f"{file} is damaged ({fault}). Delete {self.folder} to start over, or give another output.")

    def log(self, **values: object) -> None:
        """Report the values and append them to the run's log, as one JSON line; only process 0 does."""
        if rank():
            return
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        line = json.dumps(rounded, ensure_ascii=False)
        self.report(line)
        append_line(self.folder / "log.jsonl", line)


class Trainer(BaseTrainer[PretrainingConfig]):
    """Trainer for your own image-text pairs."""

    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """Yield the batches of a stage from the `first` on; every stage and every process has others."""
        share = share or self.share(stage, first)
        return CaptionBatches(self.recipe.captions, stage, self.prompts, validation, share)


def exact_shares(answered: Sequence[Answered]) -> dict[str, object]:
    """Return the fraction of right answers per task under the key `exact`; empty if there are no answers."""
    right: dict[str, list[bool]] = {}
    for one in answered:
        right.setdefault(one.task, []).append(one.exact)
    fractions = {task: round(sum(hits) / len(hits), 3) for task, hits in sorted(right.items())}
    return {"exact": fractions} if fractions else {}


class Meter:
    """Averages the values that steps report, since `began`."""

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
