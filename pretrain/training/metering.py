"""What a run costs: tokens a second, MFU, memory, time waited for data, time left."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch

from pretrain.throughput import flops_per_token, peak_tflops


class Meter:
    """Counts what happens between two rows of metrics.

    Tokens are target tokens, those that bear loss, of all ranks. Time in evaluation is left out.
    """

    def __init__(self) -> None:
        self.num_targets: Any = 0  # a tensor on the device: reading it would make the GPU wait
        self._start, self._step, self._targets_then, self._waited = time.monotonic(), 0, 0, 0.0

    def begin(self, step: int) -> None:
        """Start at `step`."""
        self._start, self._step, self._waited = time.monotonic(), step, 0.0
        self._targets_then = int(self.num_targets)

    def count(self, num_targets: Any, seconds_waited: float) -> None:
        """Count the batches of one step: target tokens of all ranks, and seconds that this rank waited for them."""
        self.num_targets = self.num_targets + num_targets
        self._waited += seconds_waited

    def leave_out(self, seconds: float) -> None:
        """Seconds that are no training."""
        self._start += seconds

    def read(self, step: int, num_steps: int, world_size: int, model: Any, block_size: int) -> dict[str, float]:
        """The figures of the steps since the last reading; MFU only on a card whose peak is known."""
        seconds, steps = max(time.monotonic() - self._start, 1e-9), max(step - self._step, 1)
        targets = int(self.num_targets) - self._targets_then
        found = {
            "seconds_per_step": round(seconds / steps, 3),
            "target_tokens_per_second": round(targets / seconds, 1),
            "data_wait_share": round(self._waited / seconds, 4),
            "seconds_left": round((num_steps - step) * seconds / steps),
        }
        if torch.cuda.is_available():
            found["target_tokens_per_second_per_gpu"] = round(targets / seconds / world_size, 1)
            found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            peak = peak_tflops(torch.cuda.get_device_name())
            if peak:
                flops = targets / seconds / world_size * flops_per_token(model, block_size)
                found["mfu"] = round(flops / (peak * 1e12), 4)
        else:
            found["memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        self.begin(step)
        return found
