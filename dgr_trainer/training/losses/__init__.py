"""Rank losses: pure functions of a batch of student scores.

Every loss takes `scores` `(B, M)`, one row a rank list, and a bool `mask` `(B, M)`, `True` where there is a passage. A
masked entry counts as removed, whatever it holds. The last six also take the teacher's scores, `loss(scores,
teacher_scores, mask)`; the first two are taught the order of the list, `loss(scores, mask)`.

| loss                     | list order               | teacher scores   | scale (1)    | a list's loss            |
|--------------------------|--------------------------|------------------|--------------|--------------------------|
| `distilled_ranknet_loss` | best first: it is taught | -                | margins      | weighted mean over pairs |
| `margin_rank_loss`       | relevant first           | -                | margins      | mean over candidates     |
| `ranknet_loss`           | any                      | order            | temperature  | mean over pairs          |
| `margin_mse_loss`        | relevant first (2)       | differences      | temperature  | mean over pairs          |
| `lambda_loss`            | any                      | order, or grades | temperature  | sum of weighted pairs    |
| `listnet_loss`           | any                      | softmax          | temperatures | cross-entropy            |
| `kl_divergence_loss`     | any                      | softmax          | temperatures | divergence               |
| `listmle_loss`           | any                      | order            | temperature  | sum over passages        |

(1) Squared log-odds scores (the default of the library) are in the hundreds to thousands: margins of 300 + 100 a
place, or a temperature about 100. Log-likelihoods are sums of log-probabilities: margins and temperatures of a
few nats. For the losses with a softmax, `standardize_scores` is the alternative to a temperature.
(2) Any with `pairs="all"`.

Common to all:

- **Precision.** float32 inside whatever the input (float64 stays float64), under autocast too.
- **Mean over lists.** `reduction="mean"` (`"weights"` and `"sum"` of `distilled_ranknet_loss`) is the mean over the
  lists with at least two passages; a list with fewer has nothing to teach, loss 0 and gradient 0. `reduction="none"`
  returns the loss of each list, `(B,)`.
- **Gradient accumulation and several processes.** A list's loss depends on no other list. So with `num_lists`, the sum
  of `count_rank_lists(mask)` over all micro-batches of the step and all processes, the losses of the micro-batches add
  up to the loss of the whole batch, exactly, however ragged (under DistributedDataParallel, which averages gradients,
  times the number of processes). Without it, the mean of micro-batch means is the same only if every micro-batch has
  equally many such lists. `distilled_ranknet_loss(reduction="active")` is the exception: its divisor depends on which
  pairs of the batch are violated.
- **No synchronisation.** Nothing is read back to the host, and nothing loops over the batch.
"""

from .list_tensors import Reduction, count_rank_lists
from .listwise import KL_DIVERGENCE, LISTMLE, LISTNET, kl_divergence_loss, listmle_loss, listnet_loss
from .margin import DISTILLED_RANKNET, MARGIN_RANK, distilled_ranknet_loss, margin_rank_loss
from .normalization import standardize_scores
from .pairwise import LAMBDA, MARGIN_MSE, RANKNET, lambda_loss, margin_mse_loss, ranknet_loss
from .ranking_loss import RankingLoss

# The losses that the trainer knows by name. A new one is a line here.
RANKING_LOSSES = {
    loss.name: loss
    for loss in (DISTILLED_RANKNET, MARGIN_RANK, RANKNET, MARGIN_MSE, LAMBDA, LISTNET, KL_DIVERGENCE, LISTMLE)
}

__all__ = [
    "RANKING_LOSSES",
    "RankingLoss",
    "Reduction",
    "count_rank_lists",
    "distilled_ranknet_loss",
    "kl_divergence_loss",
    "lambda_loss",
    "listmle_loss",
    "listnet_loss",
    "margin_mse_loss",
    "margin_rank_loss",
    "ranknet_loss",
    "standardize_scores",
]
