"""A CUDA device that is pretended: its tensors hold values, on the CPU, and say `cuda:0`.

Whatever passes through PyTorch's dispatcher is seen as the real device would see it: operators that
mix devices raise, copies between host and device are counted, and so is what attention was asked
for. Times, kernels and memory are not the device's. `test_cuda_fake` proves shapes and waiting
without values; here whole answers are decoded.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad_mode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sequoia_core.decode import step, timed_model

ATEN = torch.ops.aten
CUDA = torch.device("cuda", 0)
HOST = torch.device("cpu")


class MixedDevicesError(AssertionError):
    """An operator was given tensors of the host and of the device."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One call of attention.

    Attributes:
        rows: of queries, all heads of a KV head together.
        keys: attended over.
        masked: with an additive mask.
        causal: without one, later keys left out.
    """

    rows: int
    keys: int
    masked: bool
    causal: bool


@dataclass(slots=True)
class Traffic:
    """What a device was asked for.

    Attributes:
        to_device: copies from the host.
        to_host: copies to the host, each of which waits for the device.
        operators: calls of each operator on the device.
        attention: calls of it, in order.
    """

    to_device: int = 0
    to_host: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    attention: list[Attention] = field(default_factory=list)

    def forget(self) -> None:
        """Begin to count anew."""
        self.to_device = self.to_host = 0
        self.operators.clear()
        self.attention.clear()


class DeviceTensor(Tensor):
    """A tensor on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise AssertionError(f"{func} outside of a pretended device")


def _flash(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    assert queries.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return tuple(ATEN._scaled_dot_product_flash_attention_for_cpu.default(queries, keys, values))


def _efficient(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, with_log_sums: bool
) -> tuple[Tensor, ...]:
    """Its log sums are padded to tiles of 32 rows; masks begin at multiples of 16 bytes."""
    assert with_log_sums
    assert bias.shape == (1, *queries.shape[1:3], keys.shape[2])
    assert bias.storage_offset() * bias.itemsize % 16 == bias.stride(2) * bias.itemsize % 16 == 0
    flash = ATEN._scaled_dot_product_flash_attention_for_cpu.default
    mixed, log_sums = flash(queries, keys, values, attn_mask=bias)
    padding = -queries.shape[2] % 32
    return mixed, functional.pad(log_sums, (0, padding), value=float("nan"))


_KERNELS: Mapping[object, Callable[..., Any]] = {
    ATEN._scaled_dot_product_flash_attention.default: _flash,
    ATEN._scaled_dot_product_efficient_attention.default: _efficient,
}
"""Of CUDA alone; a CPU build crashes before the dispatcher sees them."""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator on the values that its tensors hold."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled, and to import the compiler takes seconds."""
        return False

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._traffic = traffic

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = list(_tensors((*args, *given.values())))
        on_device = any(isinstance(each, DeviceTensor) for each in tensors)
        wanted = given.get("device")
        to = on_device if wanted is None else torch.device(wanted).type == "cuda"
        if wanted is not None:
            given["device"] = HOST
        held_args = _held(tuple(args))
        held_given = {key: _held(value) for key, value in given.items()}
        if name == "_to_copy":
            return self._copied(func, held_args, held_given, (on_device, to))
        if name == "copy_":
            self._count_copy(*(isinstance(each, DeviceTensor) for each in args[:2]))
            func(*held_args, **held_given)
            return args[0]
        if name == "_local_scalar_dense":
            self._traffic.to_host += on_device
            return func(*held_args, **held_given)
        # a single number of the host may be part of any operator
        if on_device and any(
            not isinstance(each, DeviceTensor) and each.dim() > 0 for each in tensors
        ):
            raise MixedDevicesError(f"{func} has tensors of the host and of the device")
        found = func(*held_args, **held_given)
        if not to:
            return found
        self._traffic.operators[name] += 1
        if name.endswith("_") and isinstance(args[0], DeviceTensor):
            return args[0]
        return _on_device(found)

    def _copied(
        self, func: Any, args: Any, given: dict[str, Any], way: tuple[bool, bool]
    ) -> Tensor:
        given.pop("non_blocking", None)
        found: Tensor = func(*args, **given)
        self._count_copy(way[1], way[0])
        return DeviceTensor(found) if way[1] else found

    def _count_copy(self, onto_device: bool, from_device: bool) -> None:
        self._traffic.to_device += onto_device and not from_device
        self._traffic.to_host += from_device and not onto_device


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _held(value: Any) -> Any:
    """The values of a tensor, or of all in a list; anything else as it is."""
    if isinstance(value, DeviceTensor):
        return value.held
    if isinstance(value, list | tuple):
        return type(value)(map(_held, value)) if type(value) in (list, tuple) else value
    return value


def _on_device(found: Any) -> Any:
    if isinstance(found, Tensor):
        return DeviceTensor(found)
    return tuple(map(_on_device, found)) if isinstance(found, list | tuple) else found


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, whose own code wants a device guard of the CUDA build."""
    asked = [*args, kwargs.get("device"), kwargs.get("dtype")]
    dtype = next((each for each in asked if isinstance(each, torch.dtype)), x.dtype)
    places = [torch.device(each) for each in asked if isinstance(each, torch.device | str)]
    device = places[0] if places else x.device
    if device.type == x.device.type and dtype is x.dtype:
        return x
    copied: Tensor = ATEN._to_copy.default(x, dtype=dtype, device=device)
    return copied


def index(x: Tensor, key: Any) -> Tensor:
    """`x[key]` for the keys that the engine uses; a view unless a tensor is among them."""
    tensors: list[Tensor | None] = []
    dim = 0
    for each in key if isinstance(key, tuple) else (key,):
        if isinstance(each, int):
            x = ATEN.select.int(x, dim, each)
            continue
        if each is None:
            x = ATEN.unsqueeze.default(x, dim)
        elif isinstance(each, slice):
            x = ATEN.slice.Tensor(x, dim, each.start, each.stop, each.step or 1)
        else:
            tensors += [None] * (dim - len(tensors)) + [each]
        dim += 1
    return ATEN.index.Tensor(x, tensors) if tensors else x


def _set(x: Tensor, key: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        ATEN.copy_.default(index(x, key), value)
    else:
        ATEN.fill_.Scalar(index(x, key), value)


def _number(x: Tensor) -> Any:
    return ATEN._local_scalar_dense.default(x)


_METHODS: Mapping[object, Callable[..., Any]] = {
    Tensor.__getitem__: index,
    Tensor.__setitem__: _set,
    Tensor.__invert__: ATEN.bitwise_not.default,
    Tensor.__len__: lambda x: x.shape[0],
    Tensor.__bool__: lambda x: bool(_number(x)),
    Tensor.__int__: lambda x: int(_number(x)),
    Tensor.__float__: lambda x: float(_number(x)),
    Tensor.item: _number,
    Tensor.data_ptr: lambda x: x.held.data_ptr(),
    Tensor.tolist: lambda x: _to(x, HOST).tolist(),
    Tensor.cpu: lambda x: _to(x, HOST),
    Tensor.float: lambda x: _to(x, torch.float32),
    Tensor.double: lambda x: _to(x, torch.float64),
    Tensor.copy_: lambda x, other, *_, **__: ATEN.copy_.default(x, other),
    Tensor.new_tensor: lambda x, data: _to(torch.tensor(data, dtype=x.dtype), x.device),
}


class _Methods(TorchFunctionMode):
    """Takes methods by their operators where their Python side wants a CUDA build."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.tensor and given.get("device") is not None:
            return _to(func(*args, **given | {"device": HOST}), given["device"])
        if func is Tensor.to:
            return _to(*args, **given)
        if not args or not isinstance(args[0], DeviceTensor):
            return func(*args, **given)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **given)
        if func in _KERNELS:
            assert all(isinstance(each, DeviceTensor) for each in _tensors(args))
            self._traffic.operators[func.overloadpacket.__name__] += 1  # type: ignore[attr-defined]
            return _on_device(_KERNELS[func](*map(_held, args)))
        if func is functional.rms_norm:
            held = {key: _held(value) for key, value in given.items()}
            return DeviceTensor(func(*map(_held, args), **held))
        return _METHODS.get(func, func)(*args, **given)

    def _attention(
        self,
        queries: DeviceTensor,
        keys: DeviceTensor,
        values: DeviceTensor,
        mask: DeviceTensor | None = None,
        **given: Any,
    ) -> DeviceTensor:
        if mask is not None:
            assert mask.dtype is queries.dtype
        seen = Attention(
            queries.shape[2], keys.shape[2], mask is not None, bool(given.get("is_causal"))
        )
        self._traffic.attention.append(seen)
        held = map(_held, (queries, keys, values, mask))
        return DeviceTensor(functional.scaled_dot_product_attention(*held, **given))


class _Event:
    """A CUDA event that happens at once."""

    def record(self, stream: object = None) -> None:
        """Nothing is waited for."""

    def synchronize(self) -> None:
        """It has happened."""

    def elapsed_time(self, _end: "_Event") -> float:
        """Milliseconds; those of no device."""
        return 1.0


class _HostTorch:
    """`torch`, whose generators all draw on the host."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def Generator(self, _device: object = HOST) -> torch.Generator:  # noqa: N802
        return torch.Generator()


@contextmanager
def pretended_device() -> Iterator[Traffic]:
    """Inside, `cuda:0` is there; yields what it is asked for."""
    traffic, no_grad = Traffic(), torch.no_grad
    with pytest.MonkeyPatch.context() as patch:
        # tensors of inference mode have no version that a wrapper could share
        patch.setattr(grad_mode.inference_mode, "__enter__", lambda self: no_grad().__enter__())
        patch.setattr(grad_mode.inference_mode, "__exit__", lambda self, *_: None)
        patch.setattr(timed_model, "_event", _Event)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "synchronize", lambda _device=None: None)
        patch.setattr(step, "torch", _HostTorch())
        with no_grad(), _Methods(traffic), _Operators(traffic):
            yield traffic
