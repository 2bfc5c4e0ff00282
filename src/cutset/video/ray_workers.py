"""Workers of a stream that Ray places on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_needs import Needs, parse_places
from cutset.cluster.launch.ray_launcher import PartyOrder, RayLauncher, RayOptions

if TYPE_CHECKING:
    from cutset.video.assembly import Assembly

__all__ = ["ray_workers"]

PROCESS = 512 << 20  # bytes of a process with torch in it that holds no weights


def ray_workers(
    options: RayOptions, assembly: Assembly, log: Callable[[str], None], evidence: PartyEvidence | None = None
) -> RayLauncher:
    """As many as the assembly has, by its names; they get the weights of their stages over their links. `evidence`:
    what each shows, and wants of the next one.

    Memory is reserved for the whole network in each: when others are gone, one may run all of it. Raises CutsetError.
    """
    graph, threads, speeds = assembly.model.graph, assembly.settings.threads, assembly.speeds
    memory = PROCESS + graph.weight_bytes(range(len(graph.nodes)))
    orders = {}
    needs = parse_places(options.places, assembly.names, Needs(float(threads), memory))
    for number, (name, one) in enumerate(needs.items()):
        own = max(1, int(one.cpus))
        words = ["cutset.cli", "stream", "worker", "--threads", str(own)]
        words += ["--device", "cuda"] if one.gpus else []
        words += ["--speed", str(speeds[number])] if speeds else []
        words += [] if evidence is None else evidence.words(elsewhere=True)
        orders[name] = PartyOrder(words, own, one, files={} if evidence is None else evidence.files)
    return RayLauncher(orders, options, log=log)
