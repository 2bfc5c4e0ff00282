"""A made-up run of two workers, whose every time is known."""

from __future__ import annotations

from cutset.cluster.trace.spans import Kind, Span


def pipeline(pictures: int = 6, source: int = 0, at: float = 100.0) -> dict[str, list[Span]]:
    """Picture k starts at `at` + 0.01 k; the edge computes 10 ms, the link takes 20 ms, the cloud computes 5 ms."""
    parties: dict[str, list[Span]] = {"coordinator": [], "edge": [], "cloud": []}
    edge_free = link_free = cloud_free = 0.0

    def note(party: str, kind: Kind, picture: int, start: float, seconds: float, nbytes: int = 0) -> float:
        parties[party].append(Span(kind, source, picture, start, start + seconds, nbytes))
        return start + seconds

    for k in range(pictures):
        t = note("coordinator", "capture", k, at + 0.01 * k, 0.001)
        t = note("coordinator", "send", k, t, 0.002, 1000)
        t = note("edge", "receive", k, t, 0.0, 1000)
        t = edge_free = note("edge", "compute", k, max(t, edge_free), 0.010)
        t = note("edge", "encode", k, t, 0.001)
        start = max(t, link_free)
        t = link_free = note("edge", "send", k, start, 0.020, 20_000)
        note("cloud", "receive", k, start, 0.020, 20_000)
        t = note("cloud", "decode", k, t, 0.001)
        t = cloud_free = note("cloud", "compute", k, max(t, cloud_free), 0.005)
        note("coordinator", "deliver", k, t, 0.001)
    return parties
