"""Training loop on transformers' Trainer.

It saves only trained weights, stops on divergence, Ctrl-C or SIGTERM, and writes `metrics.jsonl`. `TrainableModel`
defines what is saved and how it is loaded.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
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
from ..files.untrusted_files import parse_json, read_bytes
from ..training.distributed import barrier, rank, world
from ..training.worker_errors import plain_worker_errors
from .config import Finetuning
from .run_plan import RunPlan
from .saved_checkpoint import ADVICE, writing
from .trainable_model import TrainableModel

METRICS = "metrics.jsonl"
LOGS = 200
FLAT_LOGS = 30


class FinetuneTrainer(Trainer):
    """Trainer whose checkpoints hold only the trained weights."""

    def __init__(self, tuned: TrainableModel, **kwargs: Any) -> None:
        self.tuned = tuned
        super().__init__(model=tuned.model, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; release the callbacks' resources however it ends."""
        try:
            with plain_worker_errors():
                return super().train(*args, **kwargs)
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ResourceCallback):
                    callback.release()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as Trainer does, but delete older checkpoints only after the new one is complete on disk."""
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
    """Callback that holds a process-wide resource (signal handler, terminal) and releases it at the end."""

    def release(self) -> None:
        """Release the resource. Called after training or an error, also if training never began."""
        raise NotImplementedError


class InterruptCallback(ResourceCallback):
    """Save after the current step and stop: on Ctrl-C, and on SIGTERM, which clusters send before they take a machine.

    A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers only there
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        if number == signal.SIGINT:
            signal.signal(number, self.before[number])
            print("\nsaving after this step; Ctrl-C again stops at once", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.asked = _any_process(self.asked, args.device)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _any_process(flag: bool, device: torch.device) -> bool:
    """Return True if the flag is set in any process: all must stop after the same step."""
    if not torch.distributed.is_initialized():
        return flag
    flags = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


class DivergenceCallback(TrainerCallback):
    """Stop a run whose loss shows that it learns nothing, and name the likely cause."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=FLAT_LOGS)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):
            return
        loss = logs["loss"]
        stopped = f"Training stopped at step {state.global_step}: the loss is"
        if not math.isfinite(loss):
            raise UsageError(f"{stopped} {loss}. Lower learning_rate, or set dtype to bfloat16 or float32.")
        if loss == 0:
            raise UsageError(
                f"{stopped} exactly 0. Check with --check that the data has answers that the model does not know yet."
            )
        self.losses.append(loss)
        if len(self.losses) == FLAT_LOGS and max(self.losses) - min(self.losses) < 1e-6 * max(self.losses):
            raise UsageError(f"{stopped} flat for {FLAT_LOGS} logs. Raise learning_rate, or adapt more layers.")


class JsonlLogCallback(TrainerCallback):
    """Append each log to `metrics.jsonl` as one line. A resumed run drops the lines after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            rows = [row for row in read_metrics(self.file) if row["step"] <= state.global_step]
            write_file(self.file, "".join(json.dumps(row) + "\n" for row in rows))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:  # the summary at the end has it
            append_line(self.file, json.dumps({"step": state.global_step, **logs}))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`; a missing file has none, and torn lines are skipped."""
    if not file.is_file():
        return []
    lines = read_bytes(file).decode("utf-8", "replace").replace("\0", "\n").splitlines()
    return [row for row in map(_parse_line, lines) if row]


def _parse_line(line: str) -> dict[str, Any]:
    """Parse a row; return {} if the line is not valid."""
    try:
        row = parse_json(line)
        numbers = (row["step"], row.get("loss", 0.0), row.get("eval_loss", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return row if all(isinstance(number, (int, float)) for number in numbers) else {}


class ProgressCallback(ResourceCallback):
    """Progress bar with loss, learning rate, samples per second and remaining time."""

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step = samples_per_step
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.progress = Progress(TextColumn("step {task.completed:.0f}/{task.total:.0f}"), *columns)
        self.task: TaskID | None = None
        self.metrics = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step)
            self.progress.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.metrics = f"loss {logs['loss']:.4f}  rate {logs['learning_rate']:.1e}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.task is not None:
            speed = (self.progress.tasks[0].speed or 0) * self.samples_per_step
            description = f"{self.metrics}  {speed:.1f} samples/s"
            self.progress.update(self.task, completed=state.global_step, description=description)

    def release(self) -> None:
        """Stop the drawing thread and restore the terminal."""
        self.progress.stop()


def last_step(loop: FinetuneTrainer) -> int:
    """Return the step whose weights the model holds after training: the best step if its weights were loaded."""
    best = loop.state.best_global_step if loop.args.load_best_model_at_end else None
    return int(best or loop.state.global_step)


def require_tensorboard(recipe: Finetuning) -> None:
    """Raise `UsageError` if the recipe asks for TensorBoard files and no package can write them."""
    if recipe.tensorboard and not is_tensorboard_available():
        raise UsageError("tensorboard = true needs the package tensorboard. Run pip install tensorboard.")


def arguments(recipe: Finetuning, plan: RunPlan, dtype: torch.dtype, device: torch.device) -> TrainingArguments:
    """Convert the recipe to transformers' arguments; `dtype` is the compute dtype."""
    return TrainingArguments(
        output_dir=recipe.output,
        seed=recipe.seed,
        data_seed=recipe.seed,
        disable_tqdm=True,
        report_to=["tensorboard"] if recipe.tensorboard else [],
        **_steps(recipe, plan),
        **_optimizer(recipe, plan),
        **_saving(recipe, plan),
        **_compute(recipe, dtype, device),
    )


def _steps(recipe: Finetuning, plan: RunPlan) -> dict[str, Any]:
    """Return the arguments of batches and steps."""
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
    """Return the arguments of saving, validation and logging."""
    validates, interval = plan.held_out > 0, recipe.save_steps or plan.steps_per_epoch
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": interval, "save_total_limit": recipe.keep}
    if validates:
        options |= {"eval_strategy": "steps", "eval_steps": interval, "metric_for_best_model": "eval_loss"}
    return options | {
        "load_best_model_at_end": validates and recipe.early_stop > 0,
        "greater_is_better": False,
        "logging_steps": max(1, plan.steps // LOGS),
        "logging_nan_inf_filter": False,
    }


def _compute(recipe: Finetuning, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return the arguments of device, precision and processes."""
    cpu = device.type == "cpu"
    options: dict[str, Any] = {"use_cpu": cpu, "dataloader_pin_memory": device.type == "cuda"}
    options |= {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}
    if recipe.gradient_checkpointing:
        options |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return options | {
        "ddp_backend": "gloo" if cpu and world() > 1 else None,
        "ddp_find_unused_parameters": recipe.parts.image_trains,
    }


def callbacks(recipe: Finetuning, plan: RunPlan, interrupt: InterruptCallback) -> list[TrainerCallback]:
    """Return our callbacks, and transformers' early stopping if the recipe asks for it."""
    chosen: list[TrainerCallback] = [interrupt, DivergenceCallback(), JsonlLogCallback(Path(recipe.output) / METRICS)]
    chosen.append(ProgressCallback(recipe.batch * recipe.accumulate * world()))
    if recipe.early_stop and plan.held_out:
        chosen.append(EarlyStoppingCallback(early_stopping_patience=recipe.early_stop))
    return chosen


def without_printing(loop: FinetuneTrainer) -> FinetuneTrainer:
    """Remove the callback that prints every log as a dictionary: the bar and `metrics.jsonl` show the same."""
    loop.remove_callback(PrinterCallback)
    return loop
