"""Everything one wants to know of a GPU, by one command of minutes; see docs/gpu/README.md.

Runs where nothing but torch and transformers is installed: nothing that is imported here, directly
or not, may need another library.
"""

BUDGET = 480.0  # seconds
FOLDER = "gpu-day"  # of the report
