"""Files that a command will write, looked at before it spends minutes on what goes into them."""

import os
from pathlib import Path

from sequoia_core.errors import ParameterError


def to_be_written(given: Path | None) -> Path | None:
    """A file in a folder that is there, so that nothing is measured for naught.

    Raises:
        ParameterError: it cannot be written.
    """
    if given is None:
        return None
    file = given.expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"{given}: its folder cannot be made: {error.strerror}") from None
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ParameterError(f"{given}: no file can be written there")
    return file


def picture_to_be_written(given: Path | None) -> Path | None:
    """As `to_be_written`, for a picture that can be drawn.

    Raises:
        ParameterError: it cannot be written or drawn.
    """
    file = to_be_written(given)
    if file is not None:
        from sequoia_core.picture import check_picture

        check_picture(file)
    return file


def result_to_be_written(given: Path, endings: tuple[str, ...] = (".json", ".pt")) -> Path:
    """As `to_be_written`, for a result whose format follows from its name.

    Raises:
        ParameterError: it cannot be written, or its name has another ending.
    """
    if given.suffix not in endings:
        raise ParameterError(f"{given}: the name must end in {' or '.join(endings)}")
    file = to_be_written(given)
    assert file is not None
    return file
