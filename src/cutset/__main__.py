"""`python -m cutset`: the command line."""

import sys

from cutset.cli import main

if __name__ == "__main__":
    sys.exit(main())
