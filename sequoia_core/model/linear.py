"""Matrix products with weights that lie on the device; knows nothing of what they mean."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    """x @ weight.T, optionally with what follows it fused."""

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        ...

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        ...


class DenseLinear:
    """PyTorch's own product; any device and dtype.

    Args:
        weight: [out, in].
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return functional.linear(x, self._weight)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return residual + functional.linear(x, self._weight)


class BiasedLinear:
    """x @ weight.T + bias.

    Args:
        product: x @ weight.T.
        bias: [out].
    """

    def __init__(self, product: Linear, bias: Tensor) -> None:
        self._product = product
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return self._product(x) + self._bias

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T + bias."""
        return self._product.add(x, residual) + self._bias
