"""The one exception hierarchy of the project.

Every error a person can cause is a `SequoiaError` whose message is a single line that says
what was wrong, where, and what to do about it. The command line prints it without a traceback.
"""


class SequoiaError(Exception):
    """Base class; `str(error)` is one line fit to be shown to a person."""


class GrowMapError(SequoiaError):
    """A tree shape is malformed, unreadable, or too large for its use."""


class ModelLoadError(SequoiaError):
    """A model directory, file or hub id could not be read as a Llama-family model."""


class TokenizerMismatchError(SequoiaError):
    """Draft and target do not give the same strings to the same token ids."""


class ContextFullError(SequoiaError):
    """More tokens than the model's context window holds were asked for."""


class MemoryFullError(SequoiaError):
    """The memory of a device does not suffice for what was to be computed or loaded."""


class ParameterError(SequoiaError):
    """A sampling parameter or setting is outside its range."""


class NumberError(SequoiaError):
    """A model computed something that is no number."""


class TraceError(SequoiaError):
    """A recorded trace is damaged or of an unknown version."""
