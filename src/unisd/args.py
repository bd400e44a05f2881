"""`SelfDistillConfig`: the Hugging Face training arguments plus rollout and prompt options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import TrainingArguments

from unisd.options import PromptOptions, RolloutOptions


@dataclass
class SelfDistillConfig(RolloutOptions, PromptOptions, TrainingArguments):
    """Every `TrainingArguments` field, with rollout and prompt options under TRL's names.

    `unisd.options` documents the additions; `output_dir` stays the first positional argument.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "student_chat_kwargs",
        "teacher_chat_kwargs",
    ]

    def __post_init__(self) -> None:
        RolloutOptions.__post_init__(self)
        PromptOptions.__post_init__(self)
        # Rows are examples with text columns; the model's forward takes none of them.
        self.remove_unused_columns = False
        TrainingArguments.__post_init__(self)
        # Where rows are streamed, accelerate would read them in one process and deal them out, as tensors only.
        accelerator: Any = self.accelerator_config
        if accelerator.dispatch_batches is None:
            accelerator.dispatch_batches = False


def checked_arguments(args: TrainingArguments | None) -> SelfDistillConfig:
    """`args`, or the defaults where there are none; refused where a `SelfDistillTrainer` cannot run on them."""
    args = args or SelfDistillConfig("runs/unisd")
    if not isinstance(args, SelfDistillConfig):
        raise ValueError(
            f"args must be a unisd.SelfDistillConfig, got {type(args).__name__}. It takes the same arguments and the "
            "options of rollouts and prompts."
        )
    # `nn.DataParallel` would split a batch after its rollout.
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process are not supported. Start with `accelerate launch`, "
            "or show one GPU with CUDA_VISIBLE_DEVICES=0."
        )
    return args
