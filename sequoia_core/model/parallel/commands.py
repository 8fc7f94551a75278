"""What rank 0 tells the other processes to do."""

import msgspec


class _Command(msgspec.Struct, frozen=True, tag=True):
    pass


class LoadShard(_Command, frozen=True):
    """Load a part of a target; answered by what went wrong."""

    model: int
    source: str | None  # as for `load_pair`
    shape: str  # of the target, so that all ranks load the same
    context_window: int
    dtype: str
    device: str  # the setting


class MakeCache(_Command, frozen=True):
    model: int
    cache: int


class RunForward(_Command, frozen=True):
    """Run a forward; token ids and positions follow, then the mask, if there is one."""

    cache: int
    rows: int
    columns: int | None  # of the mask


class RunExtend(_Command, frozen=True):
    """Read a text; its token ids follow."""

    cache: int
    rows: int


class KeepRows(_Command, frozen=True):
    cache: int
    committed: int
    rows: tuple[int, ...]


class TruncateCache(_Command, frozen=True):
    cache: int
    length: int


class ReleaseCache(_Command, frozen=True):
    cache: int


class ForgetCache(_Command, frozen=True):
    cache: int


class ForgetModel(_Command, frozen=True):
    model: int


class EndRank(_Command, frozen=True):
    pass


Command = (
    LoadShard | MakeCache | RunForward | RunExtend | KeepRows | TruncateCache | ReleaseCache
    | ForgetCache | ForgetModel | EndRank
)  # fmt: skip
