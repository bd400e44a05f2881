"""`SelfDistillTrainer`: the Hugging Face Trainer, with rollouts before every step and a composed loss in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from unisd import loading
from unisd.args import SelfDistillConfig, checked_arguments
from unisd.callbacks import DiagnosticsCallback, StepCallback, StepClock
from unisd.completions import CompletionLog
from unisd.config.dump import resolved_yaml
from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.contexts.data_set import fit_rows, fitting_stream
from unisd.contexts.demonstration import Demonstration, build_views
from unisd.contexts.rows import as_example
from unisd.contexts.template import render_views
from unisd.contexts.view_report import ViewReport
from unisd.distributed import Processes
from unisd.mean_weight import check_weights_known, scores_privileged_twice, with_mean_weight
from unisd.metrics import Fold, Metrics
from unisd.modes import evaluation_mode
from unisd.objective.divergence import Divergence
from unisd.options import Gate
from unisd.prepare import prepared_arguments
from unisd.rollout.hf import HFRollout
from unisd.rollout.seeds import purpose_seed
from unisd.rollout.writer import RolloutWriter
from unisd.scoring.head import check_layers, needs_whole_logits
from unisd.scoring.plan import Plan, plan_passes
from unisd.step import Step, log_scores, named_components, overrides
from unisd.tasks.accuracy import grade_all
from unisd.tasks.task import Task
from unisd.teacher.teacher import BaseTeacher, Teacher
from unisd.types import Completion, Example, Loss, Need, Prompt, RolloutBatch, TokenLoss, TokenScores, Transform

logger = logging.getLogger(__name__)

Rows = Dataset | IterableDataset | Sequence[Example | Mapping[str, Any]]


class SelfDistillTrainer(Trainer):
    """Trains a causal LM on its own completions, scored by itself under richer contexts.

    `train_dataset` and `eval_dataset` have the columns `prompt` and `privileged_context` (text or messages), optionally
    `completion`, `teacher_prompt`, `answer`; or they are lists of `Example`. `teacher` says which weights score the
    privileged view, `objective` is the main term, `components` change it or add to it; left out they are the frozen
    base, forward KL, and a clip at 10 nats.

    To write a loss, override `compute_token_losses` and name what it reads in `needs`. Other stable override points:
    `build_views`, `generate`, `reduce`, `log_metric`.
    """

    needs: ClassVar[Need] = Need()
    """What this class's `compute_token_losses` reads beyond its parents; united over the class chain."""

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SelfDistillConfig | None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        teacher: Teacher | None = None,
        objective: Divergence | None = None,
        components: Sequence[Loss | Transform] | None = None,
        rollout: HFRollout | None = None,
        demonstration: Demonstration | None = None,
        eval_tasks: Sequence[Task] = (),
        eval_limit: int | None = None,
        gates: Mapping[str, Gate] | None = None,
        peft_config: PeftConfig | None = None,
        compute_metrics: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self._options = checked_arguments(args)
        self.teacher = teacher or BaseTeacher()
        self.objective = objective or Divergence()
        self.components = named_components(components, self.objective)
        # One that lets everything through would only delay the passes.
        self.gates = {name: gate for name, gate in (gates or {}).items() if gate.fraction < 1}
        self.plan = self._plan()
        if self.objective.normalize_weights:
            check_weights_known(self.components, self.gates)
        self.demonstration = demonstration or Demonstration()
        self.rollout = rollout or HFRollout(self._options)
        self.eval_tasks, self.eval_limit = list(eval_tasks), eval_limit
        self.view_reports: dict[str, ViewReport] = {}
        self.resolved_config: str | None = None
        if isinstance(model, str):
            processing_class = processing_class or loading.load_tokenizer(model)
            model = loading.load_model(model)
        self._tokenizer = processing_class or loading.load_tokenizer(model.config._name_or_path)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        loading.check_vocabulary(model, self._tokenizer)
        # The Trainer seeds too, but after a new adapter has drawn its weights.
        set_seed(self._options.seed)
        super().__init__(
            model=loading.with_adapter(model, peft_config),
            args=self._options,
            train_dataset=self._fitted("train", train_dataset),
            eval_dataset=self._fitted("eval", eval_dataset),
            processing_class=self._tokenizer,
            data_collator=list,  # pyright: ignore[reportArgumentType]
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # The loss is divided by counts of the whole optimizer step, so the Trainer must not divide again.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        self._prepare_student()

    @classmethod
    def from_config(cls, config: RunConfig | str | Path, **overrides: Any) -> SelfDistillTrainer:
        """The trainer of a YAML file, as `unisd train` builds it; `**{"training.max_steps": 5}` overrides a key."""
        if not isinstance(config, RunConfig):
            config = load_config(config, overrides)
        elif overrides:
            raise ValueError("Overrides belong to a file: call load_config(path, overrides) first.")
        trainer = cls(**prepared_arguments(config))
        trainer.resolved_config = resolved_yaml(config)
        return trainer

    def _prepare_student(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(
                "DeepSpeed and FSDP are not supported yet: the teacher's weights are untested under sharding. "
                "Use DDP (accelerate launch --multi_gpu)."
            )
        if self.args.gradient_checkpointing and isinstance(self.model, PeftModel):
            self.model.enable_input_require_grads()
        # A prompt over its budget is found here, not after hours of training.
        for task in self.eval_tasks:
            self._questions(task)
        self._metrics = {"train": Metrics(), "eval": Metrics()}
        self._mode = "train"
        self._num_eval_batches = 0
        self._accuracies: dict[str, float] = {}
        self._clock = StepClock(self._metrics["train"])
        self._completions = CompletionLog(self._options, Path(str(self.args.output_dir)))
        self.teacher.start(self._student)
        check_layers(self._student, self.plan.layers)
        processes = self._processes = Processes(self.accelerator)
        self.step = Step(
            plan=self.plan,
            teacher=self.teacher,
            objective=self.objective,
            components=self.components,
            whole_logits=needs_whole_logits(self._student, self.objective.impl),
            gates=self.gates,
            gather=processes.join if processes.num > 1 else None,
            is_loss_known=not overrides(type(self), SelfDistillTrainer, "compute_token_losses", "reduce"),
        )
        self._write_rollouts = RolloutWriter(
            options=self._options,
            tokenizer=self._tokenizer,
            render=self._render,
            generate=lambda prompts, seed: self.generate(prompts, seed=seed),
            count=processes.total,
            gates=self.gates,
        )
        self.add_callback(StepCallback(self.teacher, self._metrics["train"], self._clock))
        self.diagnostics = DiagnosticsCallback(self.components)
        self.add_callback(self.diagnostics)

    @property
    def _student(self) -> Any:
        return self.model

    def _plan(self, num_auxiliary: int = 0) -> Plan:
        # The entropy costs no pass, and its fall is the first sign of a collapse.
        own = [Need.STUDENT_ENTROPY, *(vars(cls).get("needs", Need()) for cls in type(self).__mro__)]
        needs = [self.objective.needs, *own, *(component.needs for component in self.components.values())]
        twice = scores_privileged_twice(self.objective, self.components.values())
        plan = plan_passes(needs, num_auxiliary=num_auxiliary, gates=self.gates, privileged_twice=twice)
        has_loss = self.objective.needs or any(isinstance(one, Loss) for one in self.components.values())
        if not has_loss and type(self).compute_token_losses is SelfDistillTrainer.compute_token_losses:
            raise ValueError(
                "objective.divergence is none and no component is a loss, so there is nothing to train on. "
                "Add a loss such as cross_entropy, or set a divergence."
            )
        return plan

    def build_views(self, example: Example) -> dict[str, Prompt]:
        """The prompts of an example by view: `prompt` for the student, `privileged` for the teacher."""
        return build_views(example, self.demonstration)

    def generate(self, prompts: list[list[int]], *, seed: int, greedy: bool = False) -> list[Completion]:
        """One completion per prompt of token ids. Override to sample otherwise."""
        # A PEFT model generates through the model inside, whose forward nobody wrapped in autocast.
        with self.accelerator.autocast():
            return self.rollout(self._student, self._tokenizer, prompts, seed=seed, greedy=greedy)

    def _render(self, example: Example) -> dict[str, list[int]]:
        return render_views(example, self._tokenizer, self._options, self.build_views)

    def _fitted(self, name: str, rows: Any) -> Any:
        if isinstance(rows, dict):
            return {each: self._fitted(each, some) for each, some in rows.items()}
        if rows is None:
            return None
        if isinstance(rows, IterableDataset):
            return fitting_stream(rows, self._tokenizer, self._options, self.build_views)
        kept, self.view_reports[name] = fit_rows(
            name, rows, self._tokenizer, self._options, self.build_views, needed=self.plan.contexts
        )
        if self.plan.has_auxiliary:
            num_auxiliary = sum(view.startswith("auxiliary") for view in self.build_views(kept[0]))
            self.plan = self._plan(num_auxiliary)
        return kept

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The rollouts of the next optimizer step, all its micro-batches at once, with counts over all processes."""
        micro_batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._clock.start("rollout")
        batches = self._roll_out(micro_batches, "train", self.state.global_step)
        self._clock.stop()
        return batches, None

    def _roll_out(self, micro_batches: list[Any], *purpose: int | str) -> list[RolloutBatch]:
        if not micro_batches:
            return []
        seed = purpose_seed(self._options.seed, *purpose, self.accelerator.process_index)
        examples = [[as_example(row) for row in batch] for batch in micro_batches]
        batches = self._write_rollouts(examples, seed=seed)
        if self.objective.normalize_weights:
            if self._mode == "train":
                self._clock.start("teacher")
            batches = with_mean_weight(self.step, self._student, [batch.to(self.args.device) for batch in batches])
        return batches

    def compute_loss(
        self,
        model: nn.Module,
        inputs: RolloutBatch,  # pyright: ignore[reportIncompatibleMethodOverride]
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro-batch's share of the loss, times the number of processes, because DDP averages over them."""
        batch = inputs.to(self.args.device)
        if self._mode == "train":
            self._clock.start("teacher")
        teacher_scores = self.step.teacher_scores(self._student, batch)
        if self._mode == "train":
            self._clock.start("student")
        scores = self.step.student_scores(self._student, batch, teacher_scores, call=model)
        token_losses = self.compute_token_losses(scores)
        loss = self.reduce(token_losses, scores)
        log_scores(scores, token_losses, self.log_metric)
        self._completions.record(self._metrics[self._mode], batch, is_training=self._mode == "train")
        loss = loss * self.accelerator.num_processes
        return (loss, {"completion_ids": batch.completion_ids, "mask": batch.mask}) if return_outputs else loss

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        """Per-token terms of the loss by name. Override to add your own:

        losses = super().compute_token_losses(scores)
        losses["confidence"] = TokenLoss(0.1 * scores.student_logp.exp(), torch.ones_like(scores.student_logp))
        """
        return self.step.token_losses(scores, self.log_metric)

    def reduce(self, token_losses: Mapping[str, TokenLoss], scores: TokenScores) -> Tensor:
        """Sum of the terms, each reduced with `objective.reduction` over the counts of the whole step."""
        return self.step.reduce(token_losses, scores)

    def log_metric(self, name: str, values: Tensor, mask: Tensor | None, *, fold: Fold = "mean") -> None:
        """Log the mean (or another fold) of `values` over `mask`, processes and steps since the last log."""
        self._metrics[self._mode].add(name, values, mask, fold=fold)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Roll out and score a batch; predictions are completion ids, labels the loss mask, both -100 padded."""
        (batch,) = self._roll_out([inputs], "eval", self._num_eval_batches)
        self._num_eval_batches += 1
        mask = self._processes.without_repeats(batch.mask)
        local = replace(batch.counts, num_tokens=int(mask.sum()), num_sequences=int(mask.any(-1).sum()))
        with torch.no_grad(), evaluation_mode(model):
            batch = replace(batch, mask=mask, counts=local)
            loss, outputs = self.compute_loss(model, batch, return_outputs=True)
        loss = loss / self.accelerator.num_processes
        by_sequence = self.objective.reference or self.objective.reduction == "sequence_mean"
        size = local.num_sequences if by_sequence else local.num_tokens
        metrics = self._metrics["eval"]
        metrics.add("loss", loss * size, fold="sum")
        metrics.add("size", float(size), fold="sum")
        if prediction_loss_only:
            return loss, None, None
        ids = outputs["completion_ids"].masked_fill(~batch.completion_mask.to(loss.device), -100)
        return loss, ids, outputs["mask"].long()

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The training loss over the whole set, however it is split; the same rollout seeds every time."""
        self._mode, self._num_eval_batches = "eval", 0
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self._mode = "train"
        collected = self._metrics["eval"].flush(self._processes.gather, gather_object)
        size = collected.pop("size", 0.0)
        collected["loss"] = collected.pop("loss", 0.0) / size if size else 0.0
        named = {f"{metric_key_prefix}_{name}": value for name, value in collected.items()}
        # The accuracies here, and not after the loop, so that callbacks such as early stopping see them.
        return output._replace(metrics={**(output.metrics or {}), **named, **self._accuracies})

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """`eval_loss`, the rollout's statistics, and the greedy accuracy of every task; before training too."""
        # Of several data sets the Trainer evaluates each with this method, inside it: the tasks are asked once.
        outer = self._accuracies
        self._accuracies = outer or self.task_accuracies(metric_key_prefix)
        try:
            return super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self._accuracies = outer

    def task_accuracies(self, prefix: str = "eval") -> dict[str, float]:
        """`<prefix>_<name>_accuracy` of every task."""
        return {f"{prefix}_{task.name}_accuracy": self.task_accuracy(task) for task in self.eval_tasks}

    def task_accuracy(self, task: Task) -> float:
        """Share of the task's evaluation examples that the student solves greedily; `on_overflow` as for data sets."""
        examples = self._questions(task)
        mine = examples[self.accelerator.process_index :: self.accelerator.num_processes]
        prompts = [self._render(example)["prompt"] for example in mine]
        written = self.generate(prompts, seed=self._options.seed, greedy=True) if prompts else []
        texts = [str(self._tokenizer.decode(one.ids, skip_special_tokens=True)) for one in written]
        grades = grade_all(task, mine, texts)
        local = torch.tensor([[sum(grade.correct for grade in grades), len(grades)]], device=self.args.device)
        num_correct, num = self._processes.gather(local).sum(0).tolist()
        return num_correct / max(num, 1)

    def _questions(self, task: Task) -> list[Example]:
        rows = task.eval_examples(self.eval_limit)
        return fit_rows(task.name, rows, self._tokenizer, self._options, self.build_views, needed=())[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was collected since the last training log."""
        if "loss" in logs:
            logs.update(self._metrics["train"].flush(self._processes.gather, gather_object))
            logs.update(self.teacher.metrics(self._student))
            if self.is_world_process_zero():
                self._completions.show(self._tokenizer, self.state.global_step)
        super().log(logs, start_time)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; resuming takes up the teacher as well, and is refused where the checkpoint holds none."""
        loading.check_trainable(self._student)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = loading.last_checkpoint(str(self.args.output_dir))
        if resume_from_checkpoint:
            self.teacher.load(Path(str(resume_from_checkpoint)))
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model; and the teacher, where it is a checkpoint to resume from."""
        super().save_model(output_dir, _internal_call)
        is_checkpoint = Path(output_dir or "").name.startswith(PREFIX_CHECKPOINT_DIR)
        if output_dir and is_checkpoint and self.args.should_save:
            self.teacher.save(Path(output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's card, with how the model was distilled."""
        super().create_model_card(*args, **kwargs)
        card = Path(str(self.args.output_dir)) / "README.md"
        if self.is_world_process_zero() and card.is_file():
            with card.open("a", encoding="utf-8") as file:
                file.write(f"\n## Self-distillation with unisd\n\n```yaml\n{self._description()}```\n")

    def _description(self) -> str:
        if self.resolved_config is not None:
            return self.resolved_config
        parts = {"teacher": self.teacher, "objective": self.objective, **self.components}
        return "".join(f"{name}: {part}\n" for name, part in parts.items())
