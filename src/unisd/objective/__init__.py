"""Tensor mathematics of the objective: the main divergence, its transforms, and the terms added to it."""

from unisd.objective.clip import DivergenceClip
from unisd.objective.cross_entropy import CrossEntropy
from unisd.objective.token_filter import TokenFilter
from unisd.types import Loss, Transform

COMPONENTS: dict[str, type[Loss] | type[Transform]] = {
    "cross_entropy": CrossEntropy,
    "divergence_clip": DivergenceClip,
    "token_filter": TokenFilter,
}
