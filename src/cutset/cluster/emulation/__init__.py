"""Links and machines that aren't there: bandwidth, latency and speed, emulated on one machine."""

from cutset.cluster.emulation.bandwidth import Wire
from cutset.cluster.emulation.link import EmulatedLink
from cutset.cluster.emulation.speed import Speed, parse_speeds
from cutset.partition.hop import DIRECT, Hop, connections, parse_hop, parse_hops, path

__all__ = [
    "DIRECT",
    "EmulatedLink",
    "Hop",
    "Speed",
    "Wire",
    "connections",
    "parse_hop",
    "parse_hops",
    "parse_speeds",
    "path",
]
