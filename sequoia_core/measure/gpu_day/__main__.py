"""`python -m sequoia_core.measure.gpu_day`: needs torch and transformers, and no network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sequoia_core.errors import SequoiaError
from sequoia_core.measure.gpu_day import BUDGET, FOLDER
from sequoia_core.measure.gpu_day.run import PARTS, run_day
from sequoia_core.model.device import choose_device


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if a part failed or decoding was not lossless, 2 for wrong usage, 130 if stopped."""
    parser = argparse.ArgumentParser(prog="gpu-day", description="Measure a GPU, within minutes.")
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:N, or cpu, where models are tiny")
    add("--budget", type=float, default=BUDGET, help="seconds for everything (%(default)g)")
    add("--to", type=Path, default=Path(FOLDER), help="folder of the report (%(default)s)")
    names = ", ".join(part.name for part in PARTS)
    add("--only", action="append", default=[], metavar="PART", help=f"one or more of {names}")
    given = parser.parse_args(arguments)
    try:
        device = choose_device(given.device)
        report = run_day(device, given.to, budget=given.budget, only=given.only)
    except SequoiaError as error:
        print(f"gpu-day: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu-day: stopped; what was found is kept", file=sys.stderr)
        return 130
    print(f"kept in {report.path}")
    return int(report.broken)


if __name__ == "__main__":
    sys.exit(main())
