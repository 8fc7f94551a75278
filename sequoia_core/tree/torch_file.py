"""`.pt` files of plain tensors and numbers, read so that they cannot run code."""

import io
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

from sequoia_core.errors import GrowMapError

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 512_000_000
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80\x02"
_PICKLED = "data.pkl"
_CALLS = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "BUILD")
_CALLABLES = ("torch._utils _rebuild_tensor_v2", "collections OrderedDict")
"""What plain tensors call; the storage types are names only."""


def looks_like_torch(path: Path) -> bool:
    """True for a zip archive, a pickle, or a name that ends in `.pt`; raises OSError."""
    with path.open("rb") as file:
        head = file.read(4)
    return path.suffix == ".pt" or head.startswith((_ARCHIVE, _PICKLE))


def read_torch(path: Path) -> Any:
    """The content of a `.pt` file.

    Raises GrowMapError, which does not name the file, if it holds anything else; and OSError.
    """
    if path.stat().st_size > MAX_BYTES:
        raise GrowMapError(f"larger than {MAX_BYTES:,} bytes")
    with path.open("rb") as file:
        if file.read(4) != _ARCHIVE:
            raise _not_plain()
        checked = _checked_archive(file)
    import torch

    try:
        return torch.load(checked, map_location="cpu", weights_only=True)
    # Damaged bytes surface as almost any exception type from inside the unpickler.
    except Exception:
        raise _not_plain() from None


def is_stored(value: object) -> "TypeGuard[Tensor]":
    """Whether it is a tensor of real numbers, each of which is stored."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _checked_archive(file: IO[bytes]) -> io.BytesIO:
    """A copy of the archive, of stored members and calls that make tensors only.

    torch reads the copy, so that no second reader of zip files can see something else in it.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as made:
            members = archive.infolist()
            if any(each.compress_type != zipfile.ZIP_STORED for each in members):
                raise GrowMapError("compressed; PyTorch stores its files as they are")
            if sum(each.file_size for each in members) > MAX_BYTES:
                raise GrowMapError(f"it declares more than {MAX_BYTES:,} bytes")
            for each in members:
                content = archive.read(each)
                if each.filename.endswith(_PICKLED):
                    _check_calls(content)
                made.writestr(each.filename, content)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise _not_plain() from None
    copy.seek(0)
    return copy


def _check_calls(pickled: bytes) -> None:
    """Refuse a pickle that calls anything but what makes a tensor."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _CALLS:
            raise _not_plain()
        if opcode.name == "GLOBAL" and argument not in _CALLABLES:
            module, _, name = str(argument).partition(" ")
            if module != "torch" or not name.endswith("Storage"):
                raise _not_plain()


def _not_plain() -> GrowMapError:
    return GrowMapError(
        "not a PyTorch file of plain tensors and numbers (damaged, saved before PyTorch 1.6, or it "
        "would run code)"
    )
