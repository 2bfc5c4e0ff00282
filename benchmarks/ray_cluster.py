"""Nodes of Ray's on this machine for benchmarks, in a process of their own, until its stdin is closed.

    python -m benchmarks.ray_cluster NODES CPUS [CORE,CORE,…]

It is one of `RayConnection`'s local clusters, with a token. With cores the processes of each node are pinned to one of
them, in turn. A line of JSON on stdout says where it is: address, token.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

__all__ = ["children", "main"]


def children(pid: int, word: str) -> list[int]:
    """Processes below this one in whose command line the word stands, the oldest first."""
    parents: dict[int, int] = {}
    named = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if word.encode() in (path / "cmdline").read_bytes():
                named.append(int(path.name))
        except OSError:  # it has ended
            continue

    def below(one: int) -> bool:
        while one > 1 and one != pid:
            one = parents.get(one, 0)
        return one == pid

    return sorted(one for one in named if below(one))


def main() -> None:
    nodes, cpus = int(sys.argv[1]), float(sys.argv[2])
    cores = [int(text) for text in sys.argv[3].split(",")] if len(sys.argv) > 3 else []
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints isn't an answer
    from cutset.cluster.launch.ray_connection import RayConnection

    with RayConnection("local", nodes=nodes, cpus=cpus) as connection:
        # Actors are children of their node's raylet, and get its cores.
        for number, raylet in enumerate(children(os.getpid(), "raylet/raylet") if cores else ()):
            for thread in Path(f"/proc/{raylet}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cores[number % len(cores)]})
        print(json.dumps({"address": connection.address, "token": os.environ["RAY_AUTH_TOKEN"]}), file=answers)
        answers.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
