"""Everything one wants to know of a GPU, by one command of minutes; see docs/gpu/README.md.

Runs where nothing but torch and transformers is installed: nothing that is imported here, directly
or not, may need another library.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  images with an older one are usual
    raise SystemExit(f"gpu-day: needs Python 3.11 or later, and this is {sys.version.split()[0]}")

BUDGET = 480.0  # seconds
FOLDER = "gpu-day"  # of the report
