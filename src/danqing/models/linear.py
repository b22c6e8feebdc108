"""A linear layer whose rows do not depend on how many rows ride along.

Matrix libraries choose another summation order for matrices of very few rows, so the same token
would get other bits alone than in a pack. Up to ``MIN_ROWS`` rows the input is filled with zero
rows and the surplus of the output dropped. ``tests/models/test_linear.py`` checks the promise on
the machine at hand.
"""

from torch import Tensor, nn
from torch.nn import functional as F

MIN_ROWS = 16


class Linear(nn.Linear):
    """``nn.Linear`` on [T, D_in] with the promise above."""

    def forward(self, x_TD: Tensor) -> Tensor:
        return linear(x_TD, self.weight, self.bias)


def linear(x_TD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x_TD.shape[0]
    if rows >= MIN_ROWS:
        return F.linear(x_TD, weight, bias)
    return F.linear(F.pad(x_TD, (0, 0, 0, MIN_ROWS - rows)), weight, bias)[:rows]
