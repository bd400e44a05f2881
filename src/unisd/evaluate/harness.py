"""General tasks through lm-eval (extra `eval`), on the live model; tasks of this package run in it as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from transformers import PreTrainedTokenizerBase

from unisd.args import SelfDistillConfig
from unisd.config.errors import suggestion
from unisd.contexts.template import STUDENT_VIEW, fit_examples, render_views
from unisd.modes import evaluation_mode
from unisd.rollout.seeds import forked_rng
from unisd.tasks.task import Task
from unisd.types import Example, Prompt


def check_harness(names: Sequence[str]) -> None:
    """Refuse what lm-eval does not have or cannot load, or that lm-eval is not there; before anything is computed."""
    try:
        known = _manager().all_tasks
    except ImportError as error:
        raise ValueError(f"lm-eval is needed and cannot be imported ({error}). pip install -e '.[eval]'") from error
    for name in names:
        if name not in known:
            raise ValueError(f"lm-eval has no task {name!r}.{suggestion(name, known)} `lm_eval ls tasks` lists all.")
    _check_loads(tuple(names))


@cache
def _check_loads(names: tuple[str, ...]) -> None:
    try:
        _manager().load(list(names))
    except Exception as error:
        # Tasks fetch their data, and some run code of their own.
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(
            f"lm-eval cannot load {', '.join(names)} ({fault}). Check the connection and what the task needs."
        ) from error


@cache
def _manager() -> Any:
    """The index of lm-eval's tasks, made once: it reads some ten thousand files."""
    # An extra, whose types come and go with it: hence by name.
    tasks: Any = import_module("lm_eval.tasks")
    return tasks.TaskManager()


def harness_results(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | Task],
    *,
    options: SelfDistillConfig,
    limit: int | None = None,
    apply_chat_template: bool = False,
) -> dict[str, dict[str, float]]:
    """Metrics by task, under the names that lm-eval gives them, such as `acc,none` and `acc_stderr,none`.

    A name is a task of lm-eval, prompted as lm-eval does it, inside the chat template where `apply_chat_template` says
    so. A `Task` is prompted as in training and graded by its own grader; it appears as `unisd_<name>`.
    """
    names = [task for task in tasks if isinstance(task, str)]
    check_harness(names)
    lm_eval: Any = import_module("lm_eval")
    huggingface: Any = import_module("lm_eval.models.huggingface")
    found: dict[str, dict[str, float]] = {}
    # `HFLM` itself puts the model into evaluation mode, and for good.
    with evaluation_mode(model), forked_rng(options.seed, next(model.parameters()).device):
        lm = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.generation_batch_size)
        own = [_plugin(task, lm, tokenizer, options, limit) for task in tasks if not isinstance(task, str)]
        # Own prompts carry the chat template already, hence two calls.
        for group, in_template in ((own, False), (names, apply_chat_template)):
            if group:
                # Without seeds it leaves the generators of a training run alone.
                results = lm_eval.simple_evaluate(
                    model=lm,
                    tasks=group,
                    task_manager=_manager(),
                    limit=limit,
                    apply_chat_template=in_template,
                    log_samples=False,
                    random_seed=None,
                    numpy_random_seed=None,
                    torch_random_seed=None,
                )
                assert results is not None
                found.update({name: finite_numbers(values) for name, values in results["results"].items()})
    return found


def _plugin(
    task: Task, lm: Any, tokenizer: PreTrainedTokenizerBase, options: SelfDistillConfig, limit: int | None
) -> dict[str, Any]:
    """The task as a configuration of lm-eval: greedy, one answer, graded by the task."""
    from datasets import Dataset

    examples, _ = fit_examples(task.eval_examples(limit), tokenizer, options, _student_view)
    ids = [render_views(example, tokenizer, options, _student_view)[STUDENT_VIEW] for example in examples]
    texts = [str(tokenizer.decode(each)) for each in ids]
    changed = [index for index, (text, each) in enumerate(zip(texts, ids, strict=True)) if lm.tok_encode(text) != each]
    if changed:
        raise ValueError(
            f"{task.name}: lm-eval takes prompts as text, and that of row {changed[0]} would become other tokens than "
            "in training. Use unisd eval for this tokenizer."
        )

    def graded(document: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
        grade = task.grade(examples[document["index"]], answers[0])
        return {"acc": float(grade.correct), "well_formed": float(grade.is_well_formed)}

    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "well_formed")]
    return {
        "task": f"unisd_{task.name}",
        "custom_dataset": lambda **_: {"test": Dataset.from_dict({"index": range(len(texts)), "prompt": texts})},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": lambda document: document["prompt"],
        "doc_to_target": lambda document: str(examples[document["index"]].answer),
        "generation_kwargs": {
            "until": [str(tokenizer.eos_token)],
            "max_gen_toks": options.max_completion_length,
            "do_sample": False,
        },
        "process_results": graded,
        "metric_list": metrics,
        "num_fewshot": 0,
    }


def _student_view(example: Example) -> dict[str, Prompt]:
    return {STUDENT_VIEW: example.prompt}


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a finite number: JSON has no other, and some tasks aggregate to NaN where no answer could be scored."""
    return {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }
