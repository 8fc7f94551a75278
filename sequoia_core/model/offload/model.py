"""A Llama whose layers stay on disk or in main memory and pass through two buffers.

Embedding, norms, biases and output head stay on the device. Products are PyTorch's own over the
buffers: packing a layer for another kernel would have to be done in every forward.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.model.device import Placement
from sequoia_core.model.layers import DenseLinear, Linear
from sequoia_core.model.llama import Layer, Llama
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.layer_stream import SLOTS, LayerStream
from sequoia_core.model.offload.loaders import FileLoader, GpuLoader, LayerLayout, PinnedLayers
from sequoia_core.model.pipeline import Stage
from sequoia_core.model.weight_shapes import PRODUCTS, matrix_shapes, weight_values


class StreamedLinear:
    """A product with the buffer that holds the current layer; one product per buffer."""

    def __init__(self, stream: LayerStream, products: Sequence[Linear]) -> None:
        self._stream, self._products = stream, products

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return self._products[self._stream.slot](x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return self._products[self._stream.slot].add(x, residual)


class OffloadedLlama(Llama):
    """A `Llama` whose layers are loaded while it computes.

    `weights` are those that stay on the device; the stream fills the buffers, laid out as `layout`.
    """

    layer_stream: LayerStream

    def __init__(
        self,
        layout: LayerLayout,
        weights: Mapping[str, Tensor],
        stream: LayerStream,
        buffers: Sequence[Tensor],
        feature_layers: Sequence[int] = (),
    ) -> None:
        self.layer_stream = stream
        views = [layout.products(buffer) for buffer in buffers]
        self._streamed = {
            names[0]: StreamedLinear(stream, [DenseLinear(view[kind]) for view in views])
            for kind, names in PRODUCTS.items()
        }
        super().__init__(layout.config, weights, buffers[0].device, layout.dtype, feature_layers)

    def _layers_of(self, stage: Stage) -> Iterable[tuple[int, Layer]]:  # noqa: ARG002
        return enumerate(self.layer_stream.iterate(self._layers))

    def _product(self, modules: Sequence[str], get: Callable[[str], Tensor]) -> Linear:
        in_layer = ".".join(modules[0].split(".")[3:])  # of model.layers.N.
        if in_layer in self._streamed:
            return self._streamed[in_layer]
        return super()._product(modules, get)


def load_offloaded(
    layout: LayerLayout,
    weights: Weights,
    placement: Placement,
    feature_layers: Sequence[int] = (),
) -> OffloadedLlama:
    """A model that leaves its layers where the placement says.

    Raises:
        ModelLoadError: the layers are to stay on disk, but are not stored as safetensors.
    """
    device = placement.device
    on_gpu = device.type != "cpu"
    gpu_buffers = _buffers(layout, device) if on_gpu else []
    if placement.offload is Offload.DISK:
        weights = files = TensorFiles(weights)
        from_files = FileLoader(files, layout, pinned=on_gpu)
        loader = GpuLoader(from_files, gpu_buffers) if on_gpu else from_files
        buffers = gpu_buffers or from_files.buffers
    else:
        loader, buffers = GpuLoader(PinnedLayers(weights, layout), gpu_buffers), gpu_buffers
    stream = LayerStream(loader, layout.config.num_layers)
    return OffloadedLlama(layout, weights, stream, buffers, feature_layers)


def resident_bytes(layout: LayerLayout) -> int:
    """Bytes that an offloaded model keeps on the device: two layers, and all but the matrices."""
    config = layout.config
    matrices = sum(rows * columns for rows, columns in matrix_shapes(config).values())
    kept = weight_values(config) - config.num_layers * matrices
    return SLOTS * layout.nbytes + layout.dtype.itemsize * kept


def _buffers(layout: LayerLayout, device: torch.device) -> list[Tensor]:
    return [torch.empty(layout.nbytes, dtype=torch.uint8, device=device) for _ in range(SLOTS)]
