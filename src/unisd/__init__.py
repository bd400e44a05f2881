"""unisd: composable self-distillation for causal language models.

Names are loaded when they are first used, so that `import unisd` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisd.args import SelfDistillConfig as SelfDistillConfig
    from unisd.config.load import load_config as load_config
    from unisd.contexts.demonstration import Demonstration as Demonstration
    from unisd.objective import Agreement as Agreement
    from unisd.objective import Contrastive as Contrastive
    from unisd.objective import CrossEntropy as CrossEntropy
    from unisd.objective import DivergenceClip as DivergenceClip
    from unisd.objective import FeatureMatch as FeatureMatch
    from unisd.objective import TokenFilter as TokenFilter
    from unisd.objective.divergence import Divergence as Divergence
    from unisd.teacher import BaseTeacher as BaseTeacher
    from unisd.teacher import EMATeacher as EMATeacher
    from unisd.teacher import LiveTeacher as LiveTeacher
    from unisd.trainer import SelfDistillTrainer as SelfDistillTrainer
    from unisd.types import Example as Example
    from unisd.types import Loss as Loss
    from unisd.types import Need as Need
    from unisd.types import TokenLoss as TokenLoss
    from unisd.types import TokenScores as TokenScores
    from unisd.types import Transform as Transform

_MODULES = {
    "FeatureMatch": "unisd.objective",
    "Contrastive": "unisd.objective",
    "Agreement": "unisd.objective",
    "BaseTeacher": "unisd.teacher",
    "CrossEntropy": "unisd.objective",
    "Demonstration": "unisd.contexts.demonstration",
    "Divergence": "unisd.objective.divergence",
    "DivergenceClip": "unisd.objective",
    "EMATeacher": "unisd.teacher",
    "Example": "unisd.types",
    "LiveTeacher": "unisd.teacher",
    "Loss": "unisd.types",
    "Need": "unisd.types",
    "SelfDistillConfig": "unisd.args",
    "SelfDistillTrainer": "unisd.trainer",
    "TokenFilter": "unisd.objective",
    "TokenLoss": "unisd.types",
    "TokenScores": "unisd.types",
    "Transform": "unisd.types",
    "load_config": "unisd.config.load",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'unisd' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
