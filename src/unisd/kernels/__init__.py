"""The loss path: scores, log-probabilities and losses per token from hidden states, in bounded memory."""

from unisd.kernels.api import token_logp as token_logp
from unisd.kernels.api import token_loss as token_loss
from unisd.kernels.api import token_scores as token_scores
from unisd.kernels.autograd import Predict as Predict
from unisd.kernels.autograd import weights_in as weights_in
from unisd.kernels.rows import RowStatistics as RowStatistics
from unisd.kernels.work import TokenScores as TokenScores
from unisd.kernels.work import Weights as Weights
