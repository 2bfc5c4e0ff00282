"""`python -m release DIST`: writes SBOM and SHA256SUMS beside what `make wheel` built; `--again` builds it twice."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from release.rebuild import rebuilt
from release.sbom import write_sbom
from release.sums import ReleaseError, one_file, write_sums

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0; 1 for builds that differ; 2 for what can't be done."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("dist", type=Path, nargs="?", default=ROOT / "dist", metavar="DIST")
    parser.add_argument(
        "--again",
        action="store_true",
        help="build the wheel from the sdist twice, in two directories, and say whether both are the one that is there",
    )
    args = parser.parse_args(argv)
    try:
        if args.again:
            return rebuilt(args.dist, sys.stdout.write)
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        bom = write_sbom(one_file(args.dist, "*.whl"), epoch)
        sums = write_sums(args.dist)
    except ReleaseError as error:
        sys.stderr.write(f"release: error: {error}\n")
        return 2
    print(f"{bom}\n{sums}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
