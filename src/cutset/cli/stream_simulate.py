"""`cutset stream simulate`: the same comparison for machines that aren't there, described in a file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cutset.cli.options import different
from cutset.cli.progress import Progress
from cutset.cli.stream_network import Network, build_network
from cutset.cli.stream_plan import add_outputs, add_threads, basis

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "plan for machines that aren't there, described in a file"
DESCRIPTION = (
    "Reads a TOML or JSON file that describes a network, workers as multiples of this machine or of profile files, and "
    "links; compares the plans of all schedulers by the cost model of `cutset stream plan`, and simulates the best."
)
EXAMPLE = """the file:
  model = "alexnet"            # also: size, features, weights, seed
  source = "street.mp4"        # or changed = 0.2: the share of every value that changes
  profile = "camera.json"      # of `cutset stream profile -o`; default: this machine's
  objective = "latency"        # also: in_flight, rate, mode, horizon, pictures_stay, jpeg
  [[worker]]                   # in the order of the line, nearest to the camera first
  link = "8MB/s,20ms"          # that leads to it
  speed = 0.125                # of the profile's machine
  [[worker]]
  link = "1MB/s,30ms"
  name = "cloud"               # also: memory = "500MB", profile = FILE
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", metavar="FILE.toml|FILE.json", type=Path, help="what to simulate")
    add_outputs(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    from cutset.cli.stream_graph import picture_size
    from cutset.cli.stream_table import check_outputs, memory_limits, show
    from cutset.partition.profile import read_profile
    from cutset.video.profile.scenario import read_scenario
    from cutset.video.profile.setup import other_inputs, problem_of

    check_outputs(args)
    different(args, "out", "gantt", "json")
    scenario = read_scenario(args.file)
    given = read_profile(scenario.profile) if scenario.profile else None
    own = {path: read_profile(path) for path in scenario.profiles if path is not None}
    size = picture_size(scenario.size) if scenario.size else given.size if given else None
    with Progress() as progress:
        net: Network = build_network(
            scenario.model,
            size,
            scenario.source,
            features=scenario.features,
            weights=scenario.weights,
            seed=scenario.seed,
        )
        profile = given or net.profile(args.threads, tell=progress)
        profile.check(net.graph, net.digest, str(scenario.profile or "the profile"))
        if scenario.source:
            profile = net.with_sizes(profile, scenario.pictures, tell=progress)
    memory = [memory_limits(text)[0] if text else None for text in scenario.memory]
    profiles = [profile if path is None else own[path] for path in scenario.profiles]
    wish = replace(scenario.wish, memory=memory, profiles=profiles)
    problem = problem_of(net.graph, net.digest, profile, profile.sizes, wish)
    print(f"{net.name}, {net.size[0]}x{net.size[1]}; {basis(profile, wish)}")
    show(
        problem, other_inputs(problem, profile.sizes), args, f"cutset stream simulate {args.file.name}", profile.threads
    )
    return 0
