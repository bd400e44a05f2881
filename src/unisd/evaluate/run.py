"""`evaluate` for a model in memory, `evaluate_checkpoint` for one on disk: what `unisd eval` calls. Read this first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from unisd.args import SelfDistillConfig
from unisd.config.dump import config_hash as hash_of
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.template import STUDENT_VIEW, fit_examples, render_views
from unisd.evaluate.harness import check_harness, harness_results
from unisd.evaluate.likelihood import WINDOW, Sequences, perplexity, read_text, text_windows
from unisd.evaluate.measure import MeasuredTask, TaskMeter, held_out_examples, held_out_views
from unisd.evaluate.provenance import facts_of, git_hash, now, versions
from unisd.evaluate.results import SCHEMA_VERSION, Generation, ModelFacts, Results, Retention, TextPerplexity
from unisd.evaluate.retention import MAX_PROMPTS, BaseModel, prompt_drift
from unisd.evaluate.target import Target, base_of, find_target, load_target, tokenizer_for
from unisd.loading import check_vocabulary
from unisd.objects import eval_tasks, task_of
from unisd.rollout.hf import HFRollout
from unisd.tasks.graders import GRADERS
from unisd.tasks.local import LocalTask
from unisd.tasks.rows import as_example
from unisd.tasks.source import DataSource
from unisd.tasks.task import Task
from unisd.types import Example, Prompt


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    options: SelfDistillConfig,
    demonstration: Demonstration | None = None,
    limit: int | None = None,
    num_samples: int = 0,
    with_teacher: bool = False,
    base: BaseModel | None = None,
    prompts: Mapping[str, Sequence[Prompt]] | None = None,
    general_text: str | Path | None = None,
    harness: Sequence[str] = (),
    facts: ModelFacts | None = None,
    config_hash: str | None = None,
) -> Results:
    """Everything that is asked for about a model as it is now, in evaluation mode; nothing about it changes.

    `options` are those of the training (`trainer.args`): prompts are rendered and completions bounded as there.
    `num_samples` further answers per prompt, at `options.temperature`, give pass@k. `with_teacher` also answers under
    the privileged view. `base` adds retention, on the prompts of the tasks and on those of `prompts` by name.
    `harness` names tasks of lm-eval, asked inside the chat template where the tokenizer has one.
    """
    _check(tasks, options, num_samples, is_compared=base is not None, prompts=prompts)
    if harness:
        check_harness(harness)
    text = None if general_text is None else read_text(general_text)
    check_vocabulary(model, tokenizer)
    if base is not None:
        _check_base(model, base)
    demonstration = demonstration or Demonstration()
    meter = TaskMeter(model, tokenizer, options, demonstration, limit, num_samples, with_teacher)
    measured = [meter(task) for task in tasks]
    return Results(
        schema_version=SCHEMA_VERSION,
        created=now(),
        model=facts or facts_of(model),
        config_hash=config_hash,
        seed=options.seed,
        limit=limit,
        versions=versions(),
        git_hash=git_hash(),
        generation=_generation(options, demonstration, num_samples),
        tasks=tuple(one.measurement for one in measured),
        general_text=None if text is None else _text_perplexity(model, tokenizer, str(general_text), text, base),
        retention=None if base is None else _retention(meter, base, measured, prompts or {}),
        harness=_harness(meter, harness) if harness else None,
    )


def evaluate_checkpoint(
    given: str | Path,
    overrides: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    num_samples: int = 0,
    with_teacher: bool = False,
    retention: str | Literal[True] | None = None,
    prompts: str | None = None,
    general_text: str | None = None,
    harness: Sequence[str] = (),
) -> Results:
    """The same for a model on disk or on the hub: `given` as `find_target` takes it, `overrides` as for `unisd train`.

    `tasks` are names, or `name=path` for local rows of the task's schema; left out they are those of the
    configuration. `retention` names the base model, or is `True` for the one the model was trained from. `prompts` is
    a file of rows with a `prompt` column.
    """
    target = find_target(str(given), overrides)
    config = target.config
    if limit is None:
        limit = config.eval.limit
    chosen = [_task(target, spec) for spec in tasks] if tasks else eval_tasks(config)
    others = {} if prompts is None else {Path(prompts).name: _prompts(prompts, limit)}
    if not (chosen or others or general_text or harness):
        raise ValueError(
            f"{given}: nothing says which task to evaluate. Give --task, such as --task cmd, or a configuration whose "
            "data.eval can be graded."
        )
    if not chosen and (with_teacher or num_samples):
        raise ValueError(f"{given}: the teacher's view and samples are of a task's prompts. Give --task as well.")
    # Everything that can be wrong with what was given comes before the weights.
    tokenizer = tokenizer_for(target)
    for task in chosen:
        examples, _ = held_out_examples(task, limit, tokenizer, target.options)
        held_out_views(examples, tokenizer, target.options, config.contexts.privileged, is_teacher_asked=with_teacher)
    base_target = None if retention is None else base_of(target, retention)
    _check(chosen, target.options, num_samples, is_compared=retention is not None, prompts=others)
    if general_text is not None:
        read_text(general_text)
    if harness:
        check_harness(harness)
    model, tokenizer = load_target(target)
    return evaluate(
        model,
        tokenizer,
        chosen,
        options=target.options,
        demonstration=config.contexts.privileged,
        limit=limit,
        num_samples=num_samples,
        with_teacher=with_teacher,
        base=None if retention is None else _base(target, base_target),
        prompts=others,
        general_text=general_text,
        harness=harness,
        facts=facts_of(model, name_or_path=config.model.name_or_path, adapter=target.adapter),
        config_hash=hash_of(config),
    )


def _check(
    tasks: Sequence[Task],
    options: SelfDistillConfig,
    num_samples: int,
    *,
    is_compared: bool,
    prompts: Mapping[str, Sequence[Prompt]] | None,
) -> None:
    names = [task.name for task in tasks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"The task {twice[0]!r} is given twice. Evaluate one, then the other, into two files.")
    for task in tasks:
        if isinstance(task, LocalTask):
            task.checked_grader()
    if num_samples < 0:
        raise ValueError(f"num_samples must be 0 (none) or positive, got {num_samples}.")
    if num_samples and not options.temperature:
        raise ValueError(
            f"{num_samples} samples at temperature 0 are one answer, {num_samples} times. "
            "Set a temperature above 0, or leave sampling out."
        )
    if prompts and not is_compared:
        raise ValueError("Prompts without answers serve retention only. Give a base model (--retention) as well.")


def _task(target: Target, spec: str) -> Task:
    name, _, path = spec.partition("=")
    own = target.config.data.eval
    if not path and isinstance(own, DataSource) and name == (own.task or LocalTask.name):
        # The configuration says where the rows of this task are.
        task = task_of(target.config, "eval")
        assert task is not None
        return task
    rows = ("data.eval", *(f"data.eval.{field}" for field in ("path", "name", "split", "data_files", "task")))
    other = next((one for one in target.overrides if one.partition("=")[0] in rows), None)
    if path and other is not None:
        raise ValueError(f"--task {spec} and {other} both say which rows to evaluate on. Give one of them.")
    source: Any = name
    if path and name == LocalTask.name:
        # Other rows than the run's own are graded as its own are.
        grader = own.grader if isinstance(own, DataSource) and own.task is None else None
        if grader is None:
            raise ValueError(
                f"--task {spec}: nothing says how its answers are graded. Give eval.tasks=null and "
                f"'data.eval={{path: {path}, grader: NAME}}' instead, where NAME is one of {', '.join(GRADERS)} or "
                "my_graders:grade."
            )
        source = {"path": path, "grader": grader}
    elif path:
        source = {"task": name, "path": path}
    task = task_of(target.with_evaluation(source), "eval")
    assert task is not None
    return task


def _prompts(path: str, limit: int | None) -> list[Prompt]:
    try:
        return [as_example(row).prompt for row in DataSource(path).load(limit)]
    except ValueError as error:
        raise ValueError(f"--prompts: {error}") from error


def _base(target: Target, base: Target | None) -> BaseModel:
    if base is None:
        return BaseModel(f"{target.config.model.name_or_path} (adapter off)")
    model, _ = load_target(base)
    return BaseModel(base.name, model.to(target.options.device))


def _check_base(model: Any, base: BaseModel) -> None:
    if base.model is None:
        return
    mine, theirs = (one.config.get_text_config().vocab_size for one in (model, base.model))
    if mine != theirs:
        raise ValueError(
            f"--retention: {base.name} has {theirs} logits a token, the evaluated model has {mine}, so their "
            "distributions cannot be compared. Name a base of the same vocabulary."
        )


def _generation(options: SelfDistillConfig, demonstration: Demonstration, num_samples: int) -> Generation:
    is_sampled = num_samples > 0
    return Generation(
        max_completion_length=options.max_completion_length,
        batch_size=options.generation_batch_size,
        repetition_penalty=float(options.repetition_penalty),
        max_prompt_length=options.max_prompt_length,
        max_teacher_prompt_length=options.max_teacher_prompt_length,
        student_chat_kwargs=dict(options.student_chat_kwargs),
        teacher_chat_kwargs=dict(options.teacher_chat_kwargs),
        demonstration=asdict(demonstration),
        num_samples=num_samples,
        temperature=float(options.temperature) if is_sampled else None,
        top_p=float(options.top_p) if is_sampled else None,
        top_k=options.top_k if is_sampled else None,
        min_p=options.min_p if is_sampled else None,
    )


def _text_perplexity(
    model: Any, tokenizer: PreTrainedTokenizerBase, file: str, text: str, base: BaseModel | None
) -> TextPerplexity:
    windows = text_windows(tokenizer, text)
    mine = perplexity(model, tokenizer, windows, label=f"{file}: perplexity")
    theirs = None
    if base is not None:
        with base.active(model) as base_model:
            theirs = perplexity(base_model, tokenizer, windows, label=f"{file}: perplexity of the base")
    return TextPerplexity(file, windows.num_tokens, WINDOW, mine, theirs)


def _retention(
    meter: TaskMeter, base: BaseModel, measured: Sequence[MeasuredTask], prompts: Mapping[str, Sequence[Prompt]]
) -> Retention:
    model, tokenizer, options = meter.model, meter.tokenizer, meter.options
    sets = {one.measurement.name: one.written for one in measured}
    for name, given in prompts.items():
        examples, _ = fit_examples([Example(prompt=prompt) for prompt in given], tokenizer, options, _student_view)
        used = examples[:MAX_PROMPTS]
        ids = [render_views(example, tokenizer, options, _student_view)[STUDENT_VIEW] for example in used]
        written = HFRollout(options)(model, tokenizer, ids, seed=0, greedy=True)
        sets[name] = Sequences(ids, [completion.ids for completion in written])
    drifts = [prompt_drift(model, tokenizer, base, name, tuned=tuned, options=options) for name, tuned in sets.items()]
    return Retention(base=base.name, prompts=tuple(drifts))


def _harness(meter: TaskMeter, names: Sequence[str]) -> dict[str, dict[str, float]]:
    return harness_results(
        meter.model,
        meter.tokenizer,
        names,
        options=meter.options,
        limit=meter.limit,
        apply_chat_template=bool(meter.tokenizer.chat_template),
    )


def _student_view(example: Example) -> dict[str, Prompt]:
    return {STUDENT_VIEW: example.prompt}
