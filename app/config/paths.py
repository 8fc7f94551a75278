"""Where a person's files lie, by the conventions of the operating system (XDG on Linux).

Owns the names of folders; creates none.
"""

from pathlib import Path

import platformdirs

_APP = "sequoia"


def config_file() -> Path:
    """Settings, `config.toml`."""
    return platformdirs.user_config_path(_APP) / "config.toml"


def cache_folder() -> Path:
    """Measured times and digests; may be deleted at any time."""
    return platformdirs.user_cache_path(_APP)


def data_folder() -> Path:
    """What a person would miss."""
    return platformdirs.user_data_path(_APP)


def record_file() -> Path:
    """The record of all chats."""
    return data_folder() / "sessions.db"


def log_folder() -> Path:
    """Logs."""
    return platformdirs.user_log_path(_APP)
