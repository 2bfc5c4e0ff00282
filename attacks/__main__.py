"""`python -m attacks`: the table."""

from __future__ import annotations

import argparse
import sys

from attacks.suite import ATTACKS, PICTURE_ATTACKS

__all__ = ["main"]


def main() -> int:
    """Prints every attack and what came of it; 1 if one didn't go as it must."""
    parser = argparse.ArgumentParser(
        prog="python -m attacks", description="Runs every attack and says what came of it."
    )
    parser.add_argument("--ideas", action="store_true", help="say how each attack works")
    args = parser.parse_args()
    wrong = 0
    every = (*ATTACKS, *PICTURE_ATTACKS)
    for attack in every:
        old, ours = attack.old(), attack.ours()
        wrong += not old.succeeded or ours.succeeded
        print(attack.name.upper())
        if args.ideas:
            print(f"  {attack.idea}")
        print(f"  {attack.scheme:<28}{'broken' if old.succeeded else 'HELD  '}  {old.figure}")
        print(f"  {'cutset masked+verified':<28}{'BROKEN' if ours.succeeded else 'held  '}  {ours.figure}")
    print(f"\n{len(every)} attacks, {wrong} that didn't go as they must")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
