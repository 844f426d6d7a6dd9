"""Linear layers whose result for a clip does not depend on the other clips of the batch.

Axes: B batch, S tokens, D channels.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Linear(nn.Linear):
    """A linear layer; without gradients on a CPU it multiplies clip by clip.

    One matrix product over all rows of a batch is faster, but its library chooses a kernel by the number of
    rows, and kernels add up in different orders: a clip's last bits would change with the size of the batch.
    Training takes that product; inference takes one of `torch.bmm` per clip, whose shape the batch does not
    change. How many rows make the one product independent of their number differs between processors: 4 to
    192 rows, and with some shapes there is no such number (docs/LOG.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., D) -> (B, ..., outputs)."""
        if torch.is_grad_enabled() or not x.is_cpu or x.ndim < 3:
            return super().forward(x)
        rows = x if x.ndim == 3 else x.flatten(1, -2)
        weight, bias = self.weight.t().expand(len(x), -1, -1), self.bias
        product = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
        return product if x.ndim == 3 else product.unflatten(1, x.shape[1:-1])


def smallest_batch(device: torch.device) -> int:
    """Return the smallest batch in which `Linear` computes the same bits per clip as in any larger one.

    On a CPU a single clip is computed by several threads together, and so in another order.
    """
    return 2 if device.type == "cpu" else 1


def in_bfloat16(network: Network) -> Network:
    """Return a copy with linear layers in bfloat16, as autocast would make them at every use.

    Other weights are shared with the network.
    """
    shared = {id(weight): weight for weight in (*network.parameters(), *network.buffers())}
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            shared |= {
                id(weight): nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
                for weight in layer.parameters()
            }
    return copy.deepcopy(network, shared)
