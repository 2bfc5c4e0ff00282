"""A replica whose steps take a while as long as a file `slow` lies beside its socket: so a test can kill it before it
has generated everything."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import cutset.llm
from cutset.cli import main
from cutset.llm import AsyncLLM

PACE = 0.06  # seconds


class SlowLLM(AsyncLLM):
    """Waits before each step."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        forward = self.executor.forward
        told = Path(sys.argv[sys.argv.index("--listen") + 1].removeprefix("ipc://")).parent / "slow"

        def slowly(*args: Any, **more: Any) -> Any:
            if told.exists():
                time.sleep(PACE)
            return forward(*args, **more)

        self.executor.forward = slowly


if __name__ == "__main__":
    vars(cutset.llm)["AsyncLLM"] = SlowLLM
    sys.exit(main(sys.argv[1:]))
