"""Tasks: prompts to train and evaluate on, and a grader for the answers."""

from unisd.tasks.cmd import CmdTask

TASKS = {
    "cmd": CmdTask,
}
