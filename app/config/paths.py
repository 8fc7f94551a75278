"""Where a person's files are, by the conventions of the operating system (XDG on Linux)."""

from pathlib import Path

import platformdirs

_APP = "sequoia"


def config_file() -> Path:
    return platformdirs.user_config_path(_APP) / "config.toml"


def cache_folder() -> Path:
    """Files that may be deleted at any time: measured times and digests."""
    return platformdirs.user_cache_path(_APP)


def data_folder() -> Path:
    """Files that a person would miss."""
    return platformdirs.user_data_path(_APP)


def record_file() -> Path:
    return data_folder() / "sessions.db"


def log_folder() -> Path:
    return platformdirs.user_log_path(_APP)
