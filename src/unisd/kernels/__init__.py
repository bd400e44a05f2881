"""The loss path: scores, log-probabilities and losses per token from hidden states, in bounded memory."""

from unisd.kernels.api import token_logp, token_loss, token_scores
from unisd.kernels.work import TokenScores, Weights

__all__ = ["TokenScores", "Weights", "token_logp", "token_loss", "token_scores"]
