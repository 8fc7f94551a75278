"""A Llama whose layers stay on disk or in main memory and pass through two buffers.

Owns which parts of a model stay on the device: embedding, norms and output head do, and the two
buffers that each layer's matrices are in while they are wanted. Products are PyTorch's own over
those buffers: a kernel's own format would have to be made anew for every layer of every forward.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.model.linear import DenseLinear, Linear
from sequoia_core.model.llama import PRODUCTS, Layer, Llama
from sequoia_core.model.loading.weights import Weights, expected_shapes
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.layer_stream import SLOTS, LayerRing
from sequoia_core.model.offload.layout import LayerLayout
from sequoia_core.model.offload.loaders import FromFiles, InMemory, ToGpu


class StreamedLinear:
    """A product with whichever buffer holds the layer at hand.

    Args:
        ring: says which.
        products: with each of the buffers.
    """

    def __init__(self, ring: LayerRing, products: Sequence[Linear]) -> None:
        self._ring, self._products = ring, products

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return self._products[self._ring.slot](x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return self._products[self._ring.slot].add(x, residual)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model computes and where its layers stay meanwhile.

    Attributes:
        device: has inputs and logits; the only one where nothing else is said.
        offload: where the layers stay.
        others: devices that hold layers beside the first.
    """

    device: torch.device
    offload: Offload
    others: tuple[torch.device, ...] = ()

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All of them, in the order of their layers."""
        return (self.device, *self.others)


@dataclass(frozen=True, slots=True)
class LayerStream:
    """What layers pass through.

    Attributes:
        ring: hands them out in turn.
        buffers: on the device, one for each of its slots.
    """

    ring: LayerRing
    buffers: Sequence[Tensor]


class OffloadedLlama(Llama):
    """A `Llama` whose layers are brought while it computes; otherwise the same.

    Args:
        layout: of a layer in its buffer; has the model's shape and number format.
        weights: those that stay on the device.
        stream: of the layers' matrices.
        feature_layers: as in `Llama`.

    Attributes:
        ring: may be watched, and closed.
    """

    ring: LayerRing

    def __init__(
        self,
        layout: LayerLayout,
        weights: Mapping[str, Tensor],
        stream: LayerStream,
        feature_layers: Sequence[int] = (),
    ) -> None:
        self.ring = stream.ring
        views = [layout.products(buffer) for buffer in stream.buffers]
        self._streamed = {
            names[0]: StreamedLinear(self.ring, [DenseLinear(each[kind]) for each in views])
            for kind, names in PRODUCTS.items()
        }
        device = stream.buffers[0].device
        super().__init__(layout.config, weights, device, layout.dtype, feature_layers)

    def _in_turn(self) -> Iterable[Layer]:
        return self.ring.through(self._layers)

    def _product(self, names: Sequence[str], get: Callable[[str], Tensor]) -> Linear:
        in_layer = ".".join(names[0].split(".")[3:])  # of model.layers.N.
        if in_layer in self._streamed:
            return self._streamed[in_layer]
        return super()._product(names, get)


def load_offloaded(
    layout: LayerLayout,
    weights: Weights,
    placement: Placement,
    feature_layers: Sequence[int] = (),
) -> OffloadedLlama:
    """A model that leaves its layers where the placement says.

    Args:
        layout: the model's shape and number format.
        weights: of the model, opened.
        placement: neither on the device alone nor what `check_offload` refuses.
        feature_layers: as in `Llama`.

    Raises:
        ModelLoadError: the layers are to stay on disk, but are not stored as safetensors.
    """
    device = placement.device
    on_gpu = device.type != "cpu"
    carrier: FromFiles | ToGpu
    if placement.offload is Offload.DISK:
        weights = TensorFiles(weights)
        carrier = FromFiles(weights, layout, pinned=on_gpu)
        buffers = carrier.buffers
        if on_gpu:
            buffers = _buffers(layout, device)
            carrier = ToGpu(carrier, buffers)
    else:
        buffers = _buffers(layout, device)
        carrier = ToGpu(InMemory(weights, layout), buffers)
    stream = LayerStream(LayerRing(carrier, layout.config.num_layers), buffers)
    return OffloadedLlama(layout, weights, stream, feature_layers)


def check_offload(placement: Placement) -> None:
    """Refuse what cannot be done or would do nothing.

    Raises:
        ParameterError: the layers are where they should be brought from, or several devices are to
            hold them.
    """
    offload = placement.offload
    if offload is not Offload.NONE and placement.others:
        raise ParameterError(
            f"offload is {offload.value}, which brings layers to one device, but "
            f"{len(placement.devices)} devices are named; name one of them or leave --offload out"
        )
    if offload is Offload.CPU and placement.device.type == "cpu":
        raise ParameterError(
            "offload is cpu, but the model computes on the CPU, whose memory holds it anyway; "
            "give --offload disk, or leave it out"
        )


def resident_bytes(layout: LayerLayout) -> int:
    """What an offloaded model keeps on the device: two layers, and what is no layer's matrix."""
    streamed = {f"{name}.weight" for names in PRODUCTS.values() for name in names}
    kept = sum(
        prod(shape)
        for name, shape in expected_shapes(layout.config).items()
        if ".".join(name.split(".")[3:]) not in streamed
    )
    return SLOTS * layout.nbytes + layout.dtype.itemsize * kept


def _buffers(layout: LayerLayout, device: torch.device) -> list[Tensor]:
    return [torch.empty(layout.nbytes, dtype=torch.uint8, device=device) for _ in range(SLOTS)]
