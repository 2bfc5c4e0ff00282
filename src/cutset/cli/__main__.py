"""`python -m cutset.cli` from a checkout that isn't installed."""

import sys

from cutset.cli import main

sys.exit(main())
