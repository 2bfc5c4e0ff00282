"""What the connections in use were seen to carry, from the times that parties report."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from cutset.cluster.messages import HopReport, Report
from cutset.partition.estimates import LEAST_BYTES, LinkEstimate
from cutset.partition.hop import Hop, relayed
from cutset.partition.plan import COORDINATOR

__all__ = ["Links", "aligned"]

LEAST_CHANGE = 0.25  # share by which a bandwidth must have changed to be reported
ENOUGH = 4  # frames before the first
LEAST_SECONDS = 0.002  # a link that is quicker needs no care


class Links:
    """The one estimate of every connection, by sender and receiver; the planner is handed what is estimated here.

    `paces` are those that are emulated, and known from the start. `relays` says whether this side passes on what one
    worker sends to another, and `latency` the seconds of the way to a worker: what is relayed takes as long as both of
    its ways do, until it is seen how long that is.
    """

    def __init__(
        self,
        paces: Mapping[tuple[str, str], Hop],
        ours: Callable[[str, float], float],
        relays: Callable[[str, str], bool] = lambda sender, receiver: False,
        latency: Callable[[str], float] = lambda worker: 0.0,
    ) -> None:
        self._ours, self._relays, self._latency = (
            ours,
            relays,
            latency,
        )  # `ours`: a time of a party's clock on this one's
        self._estimates = {pair: LinkEstimate(pace) for pair, pace in paces.items()}
        self._sent: dict[tuple[str, str], float] = {}
        self._last: dict[tuple[str, str], float] = {}  # when the item before was there

    def bandwidth(self, sender: str, receiver: str) -> float:
        """What it carries, as it is sent to the sender now."""
        found = self.carries(sender, receiver)
        self._sent[sender, receiver] = found
        return found

    def estimate(self, sender: str, receiver: str) -> Hop | None:
        """What the connection carries, as far as its frames have shown; None before the first that shows something."""
        estimate = self._estimates.get((sender, receiver))
        return None if estimate is None or not estimate.count else estimate.hop

    def hop(self, sender: str, receiver: str) -> Hop:
        """The same where nothing was shown yet, too: as emulated, or the sum of both ways where it is relayed; else one
        without limits."""
        found = self._estimates.get((sender, receiver))
        if found is not None:
            return found.hop
        if COORDINATOR not in (sender, receiver) and self._relays(sender, receiver):
            return relayed(self._way(sender, sender, COORDINATOR), self._way(receiver, COORDINATOR, receiver))
        return Hop()

    def _way(self, worker: str, sender: str, receiver: str) -> Hop:
        known = self._estimates.get((sender, receiver))
        return known.hop if known is not None else Hop(latency=self._latency(worker))

    def forget(self, used: Collection[tuple[str, str]]) -> None:
        """Connections that aren't used any more keep their last estimate, and begin anew when they are used again."""
        for pair, estimate in self._estimates.items():
            if pair not in used and estimate.count:
                self._estimates[pair] = LinkEstimate(estimate.hop)

    def carries(self, sender: str, receiver: str) -> float:
        """Bytes a second, as far as known; infinite where nothing is."""
        return self.hop(sender, receiver).bandwidth

    def expected(self, sender: str, receiver: str, nbytes: float) -> float:
        """Seconds that so many bytes take, as far as known; 0 where nothing is."""
        return self.hop(sender, receiver).seconds(nbytes)

    def learn(self, sender: str, receiver: str, hop: HopReport) -> tuple[float, float | None]:
        """Takes a report: the seconds that its bytes took, and the bandwidth if the sender should know it."""
        estimate = self._estimates.setdefault((sender, receiver), LinkEstimate(self.hop(sender, receiver)))
        # It may have waited behind the item before it: that is no fault of the link.
        last, free = self._ours(receiver, hop.last), self._last.get((sender, receiver), -math.inf) - estimate.latency
        seconds = last - max(self._ours(sender, hop.sent), free)
        self._last[sender, receiver] = last
        known = math.isfinite(estimate.bandwidth)
        if hop.nbytes < LEAST_BYTES or (not known and seconds < LEAST_SECONDS):
            return seconds, None
        estimate.observe(hop.nbytes, seconds)
        sent, found = self._sent.get((sender, receiver), math.inf), estimate.bandwidth
        if estimate.count < ENOUGH or not math.isfinite(found) or abs(found - sent) <= LEAST_CHANGE * found:
            return seconds, None
        self._sent[sender, receiver] = found
        return seconds, found


def aligned(report: Report, sender: str, ours: Callable[[str, float], float]) -> Report:
    """The report with all times on this side's clock; itself where that is the clock of both parties."""
    ends = [time for span in (*report.spans[:1], *report.spans[-1:]) for time in (span.start, span.end)]
    there = all(ours(report.party, time) == time for time in ends)
    if ends and there and (report.hop is None or not sender or ours(sender, report.hop.sent) == report.hop.sent):
        return report
    spans = [replace(s, start=ours(report.party, s.start), end=ours(report.party, s.end)) for s in report.spans]
    hop = report.hop
    if hop is not None:
        first, last = ours(report.party, hop.first), ours(report.party, hop.last)
        hop = replace(hop, sent=ours(sender, hop.sent) if sender else hop.sent, first=first, last=last)
    return replace(report, spans=spans, hop=hop)
