"""The best checkpoint, by a figure of the evaluations, and an early end when it gets no better.

Both are transformers' own (`load_best_model_at_end`, `metric_for_best_model`), made to hold for interrupted runs too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer

from configs.errors import SettingsError
from configs.progress import log


class BestCheckpointTrainer(Trainer):
    """Trainer whose best evaluation always has its weights.

    transformers' own forgets an evaluation that has no checkpoint: one between two of them, or at the last step, which
    has none here.
    """

    stopped = False  # before its end
    evaluated_at: int | None = None  # the step whose weights were evaluated last

    def _evaluate(self, *arguments: Any, **more: Any) -> dict[str, float]:
        """Evaluate during training, before the first step too, where a wrong name of the metric shows.

        Raises:
            SettingsError: there is no figure `metric_for_best_model`.
        """
        metrics = super()._evaluate(*arguments, **more)
        by = self.args.metric_for_best_model
        if by and f"eval_{by.removeprefix('eval_')}" not in metrics:
            raise SettingsError(
                "the evaluation has no such figure to find the best checkpoint by",
                where="metric_for_best_model",
                found=by,
                wanted="one of " + ", ".join(name.removeprefix("eval_") for name in metrics),
                todo="give one of these; figures of a language need dev questions in it",
            )
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end and self.state.global_step < self.state.max_steps:
            self.control.should_save = True
        return is_best and self.state.global_step < self.state.max_steps  # what --save_strategy best goes by

    def _finalize_training(self, *arguments: Any, **more: Any) -> Any:
        # A run that was stopped has no result yet; one that was resumed where its folder has moved forgot the best.
        if self.args.load_best_model_at_end:
            best = None if self.stopped else self.state.best_global_step
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / f"checkpoint-{best}") if best else None
        return super()._finalize_training(*arguments, **more)

    def _load_best_model(self) -> None:
        best, name = self.state.best_global_step, self.args.metric_for_best_model
        log.info(f"best {name} {self.state.best_metric:.4f} at step {best}, whose weights are the result")
        if best == self.state.global_step:  # they are in memory
            return
        super()._load_best_model()
        self.evaluated_at = None


class EarlyStopping(EarlyStoppingCallback):
    """transformers' EarlyStoppingCallback; a run that it ends writes no checkpoint at that step.

    A run killed before its result is saved would go on from it, past its end. So it goes on from an earlier one, and
    ends again where it ended.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> Any:
        """Count, and end the run after `early_stopping_patience` evaluations without a better one."""
        was_ending = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **more)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_save = False
            if not was_ending:
                by, times = args.metric_for_best_model, self.early_stopping_patience
                log.info(f"{by} was no better in {times} evaluations: ending at step {state.global_step}")
        return control
