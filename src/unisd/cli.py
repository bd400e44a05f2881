"""The command line: `unisd train | plan | prepare | ...`. The commands import torch, so that --help need not."""

from __future__ import annotations

import argparse
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from unisd.config.errors import ConfigError
from unisd.config.load import load_config

INTERRUPTED = 130
"""Exit code of a process ended by Ctrl-C, as shells count it."""
READER_GONE = 141
"""The same of one whose output nobody reads any more, as in `unisd plan ... | head`."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 a fault in what the user gave (message on stderr, no traceback), 130 or 141 stopped."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one block only; overrides may also stand after an option.
    unknown = [word for word in rest if word.startswith("-") or arguments.command in ("init", "report")]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; see unisd {arguments.command} --help")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _has_lost_its_reader():
            raise
        # What is still buffered would be written, and fail, once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except ValueError as error:
        if not _is_raised_by_unisd(error.__traceback__):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unisd", description="Self-distillation of causal language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    train = _command(commands, "train", "train as the configuration says", _train)
    train.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="go on from this checkpoint, or without a value from the last one in training.output_dir",
    )
    _command(commands, "plan", "print passes, memory and prompt lengths, without loading weights", _plan)
    _command(commands, "prepare", "build and cache auxiliary and negative contexts before training", _prepare)
    probe = _command(commands, "probe", "measure the student against the teacher before training", _probe)
    probe.add_argument("--prompts", type=int, default=64, metavar="N", help="held-out prompts to answer (default: 64)")
    probe.add_argument("--styles", action="store_true", help="compare styles of demonstration side by side")
    _add_eval(commands)
    study = _command(
        commands, "study", "run recipes over seeds and write one table; goes on where it was stopped", _study
    )
    study.add_argument("--plan", action="store_true", help="print the runs and their passes, and start nothing")
    study.add_argument("--table", action="store_true", help="write the table of what is finished, and start nothing")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    study.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each run (default: 1)")
    text = "write one HTML file of a finished run or of a study; needs no model"
    report = commands.add_parser("report", help=text, description=text)
    report.add_argument("folder", type=Path, help="training.output_dir of a run, or the folder of a study")
    report.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: FOLDER/report.html)")
    report.add_argument("--charts", type=Path, metavar="FOLDER", help="also write each chart there, as SVG")
    report.set_defaults(run=_report)
    init = commands.add_parser("init", help="write a commented configuration to start from")
    init.add_argument("task", help="cmd (generated), local (your own files), or a benchmark such as cos_e")
    init.add_argument("path", nargs="?", type=Path, help="file to write (default: <task>.yaml)")
    init.set_defaults(run=_init)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("config", type=Path, help="YAML file of the run")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="set one option, such as training.learning_rate=1e-5"
    )
    command.set_defaults(run=run)
    return command


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "measure a model, checkpoint or run on held-out tasks"
    command = commands.add_parser("eval", help=text, description=text)
    command.add_argument("model", help="hub id, folder of a model, adapter, run or checkpoint, or a run's YAML file")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="set one option of the configuration")
    option = command.add_argument
    option(
        "--task",
        action="append",
        default=[],
        metavar="NAME[=PATH]",
        help="a task, or local rows of its schema; may be repeated (default: the configuration's)",
    )
    option("--limit", type=int, metavar="N", help="evaluate on the first N items of every task")
    option("--samples", type=int, default=0, metavar="N", help="also sample N answers per item, for pass@k")
    option("--temperature", metavar="T", help="of the samples (default: rollout.temperature)")
    option("--teacher", action="store_true", help="also answer under the privileged view: the teacher's ceiling")
    option(
        "--retention",
        nargs="?",
        const=True,
        metavar="BASE",
        help="compare with this model, or without a value with the one training started from",
    )
    option("--prompts", metavar="FILE", help="rows with a prompt column, further prompts for --retention")
    option("--general-text", metavar="FILE", help="plain text whose perplexity is measured")
    option("--harness", action="append", default=[], metavar="NAME", help="a task of lm-eval; may be repeated")
    option("--batch-size", metavar="N", help="sequences per generate call (default: rollout.generation_batch_size)")
    option("--allow-code-execution", action="store_true", help="let graders run code that the model wrote")
    option("--output", type=Path, metavar="FILE", help="results file (default: results.json, never overwritten)")
    command.set_defaults(run=_eval)


def _train(arguments: argparse.Namespace) -> None:
    if isinstance(arguments.resume, str) and "=" in arguments.resume and not Path(arguments.resume).exists():
        raise ConfigError(f"--resume takes a checkpoint, got {arguments.resume!r}. Write overrides before --resume.")
    config = load_config(arguments.config, arguments.overrides)
    from unisd.train import run

    run(config, resume=arguments.resume)


def _plan(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.overrides)
    from unisd.planning import plan

    print(plan(config))


def _prepare(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.overrides)
    from unisd.prepare import prepare

    print(prepare(config))


def _probe(arguments: argparse.Namespace) -> None:
    if arguments.prompts < 1:
        raise ConfigError(f"--prompts must be at least 1, got {arguments.prompts}.")
    config = load_config(arguments.config, arguments.overrides)
    from unisd.probe import STYLES, probe

    print(probe(config, num_prompts=arguments.prompts, styles=STYLES if arguments.styles else None).text())


def _eval(arguments: argparse.Namespace) -> None:
    for name, given in (("--limit", arguments.limit), ("--samples", arguments.samples or None)):
        if given is not None and given < 1:
            raise ConfigError(f"{name} must be at least 1, got {given}.")
    if arguments.temperature is not None and not arguments.samples:
        raise ConfigError("--temperature is that of the samples; without --samples N nothing is sampled.")
    base = arguments.retention
    if isinstance(base, str) and "=" in base and not Path(base).exists():
        raise ConfigError(f"--retention takes a model, got {base!r}. Write overrides before --retention.")
    output = arguments.output or Path("results.json")
    if arguments.output is None and output.exists():
        raise ConfigError(f"eval: {output} exists and is not overwritten. Give --output {output} to replace it.")
    _check_output(output)
    flags = {
        "rollout.temperature": arguments.temperature,
        "rollout.generation_batch_size": arguments.batch_size,
        "data.allow_code_execution": "true" if arguments.allow_code_execution else None,
    }
    from unisd.evaluate.run import evaluate_checkpoint
    from unisd.evaluate.table import results_text

    results = evaluate_checkpoint(
        arguments.model,
        [*arguments.overrides, *(f"{key}={value}" for key, value in flags.items() if value is not None)],
        tasks=arguments.task,
        limit=arguments.limit,
        num_samples=arguments.samples,
        with_teacher=arguments.teacher,
        retention=base,
        prompts=arguments.prompts,
        general_text=arguments.general_text,
        harness=arguments.harness,
    )
    results.save(output)
    print(f"{results_text(results)}\n\nSaved {output}.")


def _study(arguments: argparse.Namespace) -> None:
    from unisd.study.schema import load_study

    # Before torch comes in: a fault in the file of the study is reported at once.
    load_study(arguments.config)
    from unisd.study.study import plan_study, run_study, write_table

    if arguments.plan:
        print(plan_study(arguments.config, arguments.overrides))
        return
    if arguments.table:
        write_table(arguments.config, arguments.overrides)
        return
    run_study(arguments.config, arguments.overrides, num_parallel=arguments.jobs, num_threads=arguments.threads)


def _report(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        _check_output(arguments.output)
    from unisd.report.page import write_charts, write_report

    print(f"Saved {write_report(arguments.folder, arguments.output)}.")
    if arguments.charts is not None:
        for path in write_charts(arguments.folder, arguments.charts):
            print(f"Saved {path}.")


def _check_output(path: Path) -> None:
    # Asked before the work, which may be hours, and not when its result has no place to go.
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder. Give the name of a file in it.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--output {path} cannot be written: {folder} is no folder that you may write in.")


def _init(arguments: argparse.Namespace) -> None:
    path = arguments.path or Path(f"{arguments.task}.yaml")
    if path.exists():
        raise ConfigError(f"init: {path} exists and is not overwritten. Give another path, or remove it.")
    from unisd.config.starter import starter_yaml

    text = starter_yaml(arguments.task, str(path))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"init: {path} cannot be written ({error.strerror}). Give another path.") from None
    print(f"{path} written. Next: unisd probe {path}")


def _has_lost_its_reader() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_raised_by_unisd(trace: TracebackType | None) -> bool:
    # A ValueError that unisd raises is a message to the user. One from inside a library is a fault nobody foresaw.
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    package = frames[-1].f_globals.get("__package__") if frames else None
    return (package or "").split(".")[0] == "unisd"


if __name__ == "__main__":  # accelerate launch -m unisd.cli
    sys.exit(main())
