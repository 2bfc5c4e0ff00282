"""Links and machines that aren't there: bandwidth, latency and speed, emulated on one machine."""

from cutset.stream.emulation.hop import DIRECT, Hop, connections, parse_hop, parse_hops, path
from cutset.stream.emulation.link import EmulatedLink
from cutset.stream.emulation.speed import Speed, parse_speeds
from cutset.stream.emulation.wire import Wire

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
