"""Which tests may be skipped, and why. `.ci/run` fails on any other skip: a machine that lacks something else would
report a run as passed that tested less than it says.
"""

from __future__ import annotations

import os
import re

# A pattern of the reason that a skipped test gives, and why that is allowed.
ALLOWED = {
    r"no CUDA device|CUDA": "continuous integration has no GPU",
    r"torchvision isn't installed": "no build of torchvision fits the CPU build of torch that is pinned",
    r"the story model is not beside the project": "the model isn't ours to copy into the repository",
    r"the sample videos are not beside the project": "nor are the videos",
    r"this build of torch has no 8-bit product": "an older torch computes the same with other products",
    r"transformers makes a BPE of it, which we don't": "one tokenizer that transformers reads by another rule",
    r"nobody may make network namespaces here": "one-way networks between processes need root and Linux",
    r"the machine has no \w+ instructions": "kernels for instruction sets that this machine lacks",
}
STRICT = "STRICT_SKIPS"  # not CUTSET_…: the settings refuse names that they do not know


def strict() -> bool:
    """Whether a skip that isn't in the list fails the run."""
    return os.environ.get(STRICT, "") not in ("", "0")


def not_allowed(reasons: list[str]) -> list[str]:
    """Those of the reasons that no pattern allows, each once."""
    allowed = [re.compile(pattern) for pattern in ALLOWED]
    return sorted({reason for reason in reasons if not any(pattern.search(reason) for pattern in allowed)})
