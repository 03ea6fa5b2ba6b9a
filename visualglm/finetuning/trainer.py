"""Transformers' Trainer, saving only what trains, with our alarms, SIGTERM, and a log a program reads.

Knows nothing about files of data or about methods: a `TrainableModel` model says what is saved and how it is read back.
"""

from __future__ import annotations

import json
import math
import signal
from collections import deque
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_tensorboard_available
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from ..adapters.files import CHECKPOINT
from ..errors import UsageError
from ..files.atomic import append_line, explain_write_errors, write_file
from ..files.reading import parse_json, read_bytes
from ..training.distributed import barrier, rank, world
from ..training.worker_errors import plain_worker_errors
from .finetuning_config import Finetuning
from .run_plan import RunPlan
from .saved_checkpoint import ADVICE, writing
from .trainable_model import TrainableModel

METRICS = "metrics.jsonl"
LOGS = 200
FLAT_LOGS = 30


class FinetuneTrainer(Trainer):
    """Trainer whose checkpoints hold what trains, and nothing else of the model."""

    def __init__(self, tuned: TrainableModel, **kwargs: Any) -> None:
        self.tuned = tuned
        super().__init__(model=tuned.model, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; however it ends, what the callbacks took from the process is given back."""
        try:
            with plain_worker_errors():
                return super().train(*args, **kwargs)
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ResourceCallback):
                    callback.give_back()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's; older checkpoints go once the new one is whole and on the disk."""
        run = self._get_output_dir(trial)
        folder = Path(run) / f"{CHECKPOINT}{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with explain_write_errors(folder, ADVICE) if rank() else writing(folder):
                barrier()
                super()._save_checkpoint(model, trial)
                barrier()
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            self.tuned.save_state(Path(output_dir or str(self.args.output_dir)), self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.tuned.load_state(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self.tuned.load_state(Path(str(self.state.best_model_checkpoint)))


class ResourceCallback(TrainerCallback):
    """A callback that takes something of the process while training."""

    def give_back(self) -> None:
        """Called once training ended or failed, even where it never began."""
        raise NotImplementedError


class SigtermCallback(ResourceCallback):
    """SIGTERM, which clusters send before they take a machine away: saves after the step and ends."""

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.asked = _anywhere(self.asked, args.device)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def give_back(self) -> None:
        """The handler that was there before."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


def _anywhere(flag: bool, device: torch.device) -> bool:
    """Whether it is so in any process; all must stop after the same step."""
    if not torch.distributed.is_initialized():
        return flag
    word = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(word, op=torch.distributed.ReduceOp.MAX)
    return bool(word)


class DivergenceCallback(TrainerCallback):
    """Stops a run that learns nothing, and says what is likely wrong."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=FLAT_LOGS)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):
            return
        loss = logs["loss"]
        where = f"training stopped at step {state.global_step}: the loss is"
        if not math.isfinite(loss):
            raise UsageError(f"{where} {loss}: lower learning_rate, or compute in bfloat16 or float32.")
        if loss == 0:
            raise UsageError(f"{where} exactly 0: nothing is left to learn, or no answer is trained; see --check.")
        self.losses.append(loss)
        if len(self.losses) == FLAT_LOGS and max(self.losses) - min(self.losses) < 1e-6 * max(self.losses):
            raise UsageError(f"{where} flat for {FLAT_LOGS} logs: raise learning_rate, or adapt more layers.")


class JsonlLogCallback(TrainerCallback):
    """One JSON object a log, appended to `metrics.jsonl`; a resumed run forgets what came after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            rows = [row for row in read_metrics(self.file) if row["step"] <= state.global_step]
            write_file(self.file, "".join(json.dumps(row) + "\n" for row in rows))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and not _is_summary(logs):
            append_line(self.file, json.dumps({"step": state.global_step, **logs}))


def _is_summary(logs: dict[str, Any]) -> bool:
    return "train_runtime" in logs


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, none where there is no such file; lines that a power loss tore are left out."""
    if not file.is_file():
        return []
    lines = read_bytes(file).decode("utf-8", "replace").replace("\0", "\n").splitlines()
    return [row for row in map(_parse_line, lines) if row]


def _parse_line(line: str) -> dict[str, Any]:
    """A row, empty where the line is none."""
    try:
        row = parse_json(line)
        numbers = (row["step"], row.get("loss", 0.0), row.get("eval_loss", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return row if all(isinstance(number, (int, float)) for number in numbers) else {}


class ProgressCallback(ResourceCallback):
    """A bar with loss, learning rate, samples a second and the time left."""

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step = samples_per_step
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.progress = Progress(TextColumn("step {task.completed:.0f}/{task.total:.0f}"), *columns)
        self.task: TaskID | None = None
        self.said = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step)
            self.progress.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.said = f"loss {logs['loss']:.4f}  rate {logs['learning_rate']:.1e}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.task is not None:
            speed = (self.progress.tasks[0].speed or 0) * self.samples_per_step
            said = f"{self.said}  {speed:.1f} samples/s"
            self.progress.update(self.task, completed=state.global_step, description=said)

    def give_back(self) -> None:
        """The terminal, and the thread that draws."""
        self.progress.stop()


def last_step(loop: FinetuneTrainer) -> int:
    """The step whose numbers the model holds after training: the best one's, where those were loaded."""
    best = loop.state.best_global_step if loop.args.load_best_model_at_end else None
    return int(best or loop.state.global_step)


def require_tensorboard(recipe: Finetuning) -> None:
    """Raises `UsageError` where TensorBoard's files are wanted and no package writes them."""
    if recipe.tensorboard and not is_tensorboard_available():
        raise UsageError("tensorboard = true needs a package that writes its files: pip install tensorboard.")


def arguments(recipe: Finetuning, plan: RunPlan, computed_in: torch.dtype, device: torch.device) -> TrainingArguments:
    """The recipe in transformers' words."""
    return TrainingArguments(
        output_dir=recipe.output,
        seed=recipe.seed,
        data_seed=recipe.seed,
        disable_tqdm=True,
        report_to=["tensorboard"] if recipe.tensorboard else [],
        **_steps(recipe, plan),
        **_optimizer(recipe, plan),
        **_saving(recipe, plan),
        **_computing(recipe, computed_in, device),
    )


def _steps(recipe: Finetuning, plan: RunPlan) -> dict[str, Any]:
    """What a step takes, and how many there are."""
    return {
        "max_steps": plan.steps,
        "per_device_train_batch_size": recipe.batch,
        "per_device_eval_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "dataloader_num_workers": recipe.workers,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "prediction_loss_only": True,
    }


def _optimizer(recipe: Finetuning, plan: RunPlan) -> dict[str, Any]:
    return {
        "optim": "adamw_torch",
        "learning_rate": recipe.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": plan.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.gradient_norm,
    }


def _saving(recipe: Finetuning, plan: RunPlan) -> dict[str, Any]:
    """When it is saved, validated and logged."""
    validated, every = plan.held_out > 0, recipe.save_steps or plan.steps_per_epoch
    when: dict[str, Any] = {"save_strategy": "steps", "save_steps": every, "save_total_limit": recipe.keep}
    if validated:
        when |= {"eval_strategy": "steps", "eval_steps": every, "metric_for_best_model": "eval_loss"}
    return when | {
        "load_best_model_at_end": validated and recipe.early_stop > 0,
        "greater_is_better": False,
        "logging_steps": max(1, plan.steps // LOGS),
        "logging_nan_inf_filter": False,
    }


def _computing(recipe: Finetuning, computed_in: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Device, precision and processes."""
    cpu = device.type == "cpu"
    chosen: dict[str, Any] = {"use_cpu": cpu, "dataloader_pin_memory": device.type == "cuda"}
    chosen |= {"bf16": computed_in == torch.bfloat16, "fp16": computed_in == torch.float16}
    if recipe.gradient_checkpointing:
        chosen |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return chosen | {
        "ddp_backend": "gloo" if cpu and world() > 1 else None,
        "ddp_find_unused_parameters": recipe.parts.picture_trains,
    }


def callbacks(recipe: Finetuning, plan: RunPlan, interrupt: SigtermCallback) -> list[TrainerCallback]:
    """Ours; early stopping is transformers'."""
    chosen: list[TrainerCallback] = [interrupt, DivergenceCallback(), JsonlLogCallback(Path(recipe.output) / METRICS)]
    chosen.append(ProgressCallback(recipe.batch * recipe.accumulate * world()))
    if recipe.early_stop and plan.held_out:
        chosen.append(EarlyStoppingCallback(early_stopping_patience=recipe.early_stop))
    return chosen


def without_printing(loop: FinetuneTrainer) -> FinetuneTrainer:
    """Takes out the callback that prints every log as a dictionary; the bar and the log file say it."""
    loop.remove_callback(PrinterCallback)
    return loop
