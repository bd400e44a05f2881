"""The command line: `unisd train | plan | prepare | ...`. The commands import torch, so that --help need not."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from unisd.config.errors import ConfigError
from unisd.config.load import load_config

INTERRUPTED = 130
"""Exit code of a process ended by Ctrl-C, as shells count it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 a fault in what the user gave (message on stderr, no traceback), 130 interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one block only; overrides may also stand after an option.
    unknown = [word for word in rest if word.startswith("-") or arguments.command == "init"]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; see unisd {arguments.command} --help")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
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
    init = commands.add_parser("init", help="write a commented configuration to start from")
    init.add_argument("task", help="cmd (generated, needs no data) or local (your own files)")
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
    from unisd.evaluate import STYLES, probe

    print(probe(config, num_prompts=arguments.prompts, styles=STYLES if arguments.styles else None).text())


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


def _is_raised_by_unisd(trace: TracebackType | None) -> bool:
    # A ValueError that unisd raises is a message to the user. One from inside a library is a fault nobody foresaw.
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    package = frames[-1].f_globals.get("__package__") if frames else None
    return (package or "").split(".")[0] == "unisd"


if __name__ == "__main__":  # accelerate launch -m unisd.cli
    sys.exit(main())
