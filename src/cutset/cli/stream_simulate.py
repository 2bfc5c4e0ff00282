"""`cutset stream simulate`: the same comparison for machines that aren't there, described in a file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cutset.cli.options import add_settings, different, stream_settings_from
from cutset.cli.progress import Progress
from cutset.cli.stream_plan import add_outputs, basis, check_outputs, memory_limits, show
from cutset.config import STREAM_OPTIONS

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
    add_settings(parser, "threads", options=STREAM_OPTIONS)


def run(args: argparse.Namespace) -> int:
    check_outputs(args)
    different(args, "out", "gantt", "json")
    settings = stream_settings_from(args)

    from cutset.partition.profile import read_profile
    from cutset.video.planning import load_network
    from cutset.video.profile.scenario import read_scenario
    from cutset.video.profile.setup import other_inputs, problem_of

    scenario = read_scenario(args.file)
    given = read_profile(scenario.profile) if scenario.profile else None
    own = {path: read_profile(path) for path in scenario.profiles if path is not None}
    settings = replace(
        settings,
        size=scenario.size or ("{}x{}".format(*given.size) if given else ""),
        features=scenario.features,
        weights=scenario.weights,
        seed=scenario.seed,
    )
    with Progress() as progress:
        net = load_network(scenario.model, settings, scenario.source)
        profile = given or net.profile(settings.threads, progress=progress)
        profile.check(net.model.graph, net.model.digest, str(scenario.profile or "the profile"))
        sizes = net.sizes(scenario.pictures, progress=progress) if scenario.source else profile.sizes
    memory = [memory_limits(text)[0] if text else None for text in scenario.memory]
    profiles = [profile if path is None else own[path] for path in scenario.profiles]
    wish = replace(scenario.wish, memory=memory, profiles=profiles)
    problem = problem_of(net.model.graph, net.model.digest, profile, sizes, wish)
    print(f"{net.name}, {net.size[0]}x{net.size[1]}; {basis(profile, sizes, wish)}")
    show(
        problem,
        other_inputs(problem, sizes),
        args,
        f"cutset stream simulate {args.file.name}",
        profile.threads,
        net.runtime,
    )
    return 0
