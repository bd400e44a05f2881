"""Tensor mathematics of the objective: the main divergence, its transforms, and the terms added to it."""

from unisd.objective.agreement import Agreement
from unisd.objective.clip import DivergenceClip
from unisd.objective.contrastive import Contrastive
from unisd.objective.cross_entropy import CrossEntropy
from unisd.objective.feature_match import FeatureMatch
from unisd.objective.token_filter import TokenFilter
from unisd.types import Loss, Transform

COMPONENTS: dict[str, type[Loss] | type[Transform]] = {
    "agreement": Agreement,
    "contrastive": Contrastive,
    "cross_entropy": CrossEntropy,
    "divergence_clip": DivergenceClip,
    "feature_match": FeatureMatch,
    "token_filter": TokenFilter,
}
