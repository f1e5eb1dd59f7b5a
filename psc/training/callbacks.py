"""Callbacks of every training: one progress bar for the whole run, and what it cost."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from psc.training.checkpoints import CONFIG_KEY, CONVERSION_KEY, SEEN_KEY

log = logging.getLogger(__name__)

WARM_UP_ITERATIONS = 10
"""Left out of the throughput: compilation, algorithm search and caches."""

MEASURED_ITERATIONS = 200
"""Timed after the warm-up: not all, as timing waits for the GPU after each iteration."""

ESTIMATED_AFTER = 5
"""Of these, before it is said how long the training will take."""

KEPT = "iteration-"
"""Begins the names of checkpoints that ``trainer.test_every`` keeps."""


class IterationProgress(Callback):
    """One bar over all iterations with the time left and the last losses.

    Lightning's own bar counts batches within an epoch, and ours are only validation intervals.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Open the bar where the run starts or resumes."""
        if trainer.is_global_zero:
            self._bar = tqdm(
                total=self.iterations,
                initial=trainer.global_step,
                unit="it",
                desc="training",
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """One iteration done."""
        if self._bar is None:
            return
        # Reading a loss waits for the GPU; every iteration would stall it.
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            metrics = trainer.callback_metrics
            self._bar.set_postfix(
                {
                    short: f"{float(metrics[name]):.4f}"
                    for short, name in (("loss", "train/loss"), ("validation", "validation/loss"))
                    if name in metrics
                },
                refresh=False,
            )
        self._bar.update(1)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.close()


class Throughput(Callback):
    """Iterations per second, share of time spent waiting for data, and peak GPU memory.

    The rate is the mean over the iterations after the warm-up, at most ``MEASURED_ITERATIONS``,
    without validation and checkpoints; the data share is the part of that time between one batch's
    end and the next one's start. With ``iterations`` it soon says how long all of them will take.
    """

    def __init__(self, iterations: int | None = None) -> None:
        self.iterations = iterations
        self.counted = 0
        self.busy = 0.0
        self.waiting = 0.0
        self._seen = 0
        self._begin = 0.0
        self._end: float | None = None

    @property
    def _measures(self) -> bool:
        return self._seen >= WARM_UP_ITERATIONS and self.counted < MEASURED_ITERATIONS

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """The first wait after a validation is not the loader's steady state."""
        self._end = None

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """A batch has arrived."""
        self._begin = time.perf_counter()
        if self._end is not None and self._measures:
            self.waiting += self._begin - self._end

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """A batch has been computed."""
        if self._measures:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # or the time would be that of launching kernels
            self._end = time.perf_counter()
            self.counted += 1
            self.busy += self._end - self._begin
            if self.counted == ESTIMATED_AFTER and trainer.is_global_zero and self.iterations:
                left = self.iterations - trainer.global_step
                each = (self.busy + self.waiting) / self.counted
                about = f"about {duration(each * left)} for the {left} that are left"
                log.info(f"{each:.3g} s per iteration: {about}, validation aside")
        self._seen += 1

    def summary(self, flops_per_iteration: int) -> dict[str, float | None]:
        """Numbers for the record; None where nothing was measured. FLOPs of this process."""
        total = self.busy + self.waiting
        rate = self.counted / total if self.counted else None
        cuda = torch.cuda.is_available()
        return {
            "iterations_per_second": rate,
            "gflop_per_iteration": flops_per_iteration / 1e9,
            "achieved_gflop_per_second": rate * flops_per_iteration / 1e9 if rate else None,
            "data_share": self.waiting / total if rate else None,
            "peak_gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        }


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``duration(7530) == "2 h 6 min"``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "days"), (hours, "h"), (minutes, "min")]
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])


class KeepCheckpoints(Callback):
    """Keeps a checkpoint in ``folder`` every so many iterations, named by them."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """After the epoch's validation, as the best and the last one."""
        if trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.folder / f"{KEPT}{trainer.global_step:06d}.ckpt")


class StoreConfig(Callback):
    """Puts into every checkpoint its configuration and conversion, and what has been seen."""

    def __init__(
        self, plain: dict[str, Any], seen: dict[str, Any], conversion: dict[str, Any] | None
    ) -> None:
        self.plain, self.seen, self.conversion = plain, seen, conversion

    def on_save_checkpoint(self, trainer: lightning.Trainer, _: Any, checkpoint: Any) -> None:
        """Called by Lightning before it writes a checkpoint."""
        checkpoint[CONFIG_KEY], checkpoint[SEEN_KEY] = self.plain, self.seen
        if self.conversion is not None:
            checkpoint[CONVERSION_KEY] = self.conversion
