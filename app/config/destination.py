"""Files that a command will write, looked at before it spends minutes on what goes into them."""

import os
from pathlib import Path

from sequoia_core.errors import ParameterError
from sequoia_core.files import is_file_name, make_private_folder


def to_be_written(given: Path | None, *, private: bool = False) -> Path | None:
    """A file in a folder that is there, so that nothing is measured for naught.

    Args:
        given: what a person named, or None.
        private: folders that are made for it are their owner's alone.

    Raises:
        ParameterError: it cannot be written.
    """
    if given is None:
        return None
    file = given.expanduser()
    if not is_file_name(str(file)):
        raise ParameterError(f"{str(given)!r} is no name of a file")
    try:
        if private:
            make_private_folder(file.parent)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"{given}: its folder cannot be made: {error.strerror}") from None
    if _is_folder(file) or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ParameterError(f"{given}: no file can be written there")
    return file


def _is_folder(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError as error:
        raise ParameterError(f"{file}: no file can be written there: {error.strerror}") from None


def picture_to_be_written(given: Path | None) -> Path | None:
    """As `to_be_written`, for a picture that can be drawn.

    Raises:
        ParameterError: it cannot be written or drawn.
    """
    file = to_be_written(given)
    if file is not None:
        from sequoia_core.figures.picture import check_picture

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
