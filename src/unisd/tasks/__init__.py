"""Tasks: prompts to train and evaluate on, and a grader for the answers."""

from unisd.tasks.cmd import CmdTask
from unisd.tasks.cos_e import CosETask
from unisd.tasks.gpqa import GPQATask
from unisd.tasks.humaneval import HumanEvalTask
from unisd.tasks.mbpp import MBPPTask
from unisd.tasks.scienceqa import ScienceQATask
from unisd.tasks.tool_alpaca import ToolAlpacaTask

TASKS = {
    "cmd": CmdTask,
    "cos_e": CosETask,
    "gpqa": GPQATask,
    "humaneval": HumanEvalTask,
    "mbpp": MBPPTask,
    "scienceqa": ScienceQATask,
    "tool_alpaca": ToolAlpacaTask,
}
