"""`cutset simulate`: the plan of a language model for machines that aren't there, described in a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import add_settings, different, settings_from
from cutset.cli.plan import add_plan_outputs, check_steps, show_choices
from cutset.cli.progress import Progress

__all__ = ["configure", "run"]

EXAMPLE = """the file:
  objective = "throughput"     # or latency
  context = 4096               # tokens of a sequence; sequences = 8: of them at once
  [shape]                      # or model = "DIR": a model on this machine, which is measured
  hidden = 8192                # also: kv_heads, intermediate, vocab, experts, top_k, tied, qk_norm
  layers = 80
  heads = 64
  bits = 4.5                   # of a weight
  [[worker]]                   # in the order in which layers follow each other
  name = "desk"
  link = "100MB/s,1ms"         # of this machine to the others; between two the slower one counts
  memory = "24GiB"             # also: count = 12, for as many alike
  speed = 0.5                  # of this machine, which is measured; or of [reference], with the next two keys
  [[worker]]
  link = "100MB/s,1ms"
  bandwidth = "60GB/s"         # at which it reads weights
  gflops = 900                 # that it computes with many rows
  [serving]                    # many machines that are alike: groups of them, each with the whole model in stages
  requests = 40                # a second
  prompt = 500                 # tokens; answer = 200
  mtbf = "30d"                 # of a machine; restart = "5min", detect = "3s", spares = 20, cost = 1.5 (an hour)

or, of cameras:
  model = "alexnet"            # also: size, profile = FILE of `cutset stream profile`, changed = 0.2
  rate = 5                     # pictures a second of a camera
  [cloud]
  machines = 40                # also: speed, in times of the profile's machine; cost of each for an hour
  [[site]]
  cameras = 50                 # also: count = 20, of sites alike; name, cost
  link = "12MB/s,25ms"         # to the cloud; local = "125MB/s,0.5ms", from cameras to the box
  speed = 0.5                  # of the box

One network on machines in a line: cutset stream simulate.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Reads a TOML or JSON file that describes a language model, or the shape of one, and machines with links, "
        "and says which would run which layers, and what one alone would do, by the cost model of `cutset plan`."
    )
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", metavar="FILE.toml|FILE.json", type=Path, help="what to simulate")
    add_plan_outputs(parser)
    add_settings(parser, "backend", "dtype", "threads", "models_file")


def run(args: argparse.Namespace) -> int:
    different(args, "output", "gantt", "json")
    check_steps(args)
    settings = settings_from(args)

    from cutset.partition.machine_file import read_machine_file
    from cutset.video.profile.site_scenario import is_of_sites

    if is_of_sites(read_machine_file(args.file)):
        from cutset.cli.simulate_sites import run_sites_file

        return run_sites_file(args)

    from cutset.engine.stage_scenario import read_decoder_scenario
    from cutset.engine.stage_simulation import simulated_choices
    from cutset.models.files.source import open_source
    from cutset.models.registry import resolve

    scenario = read_decoder_scenario(args.file)
    source, name = None, args.file.name
    if scenario.model:
        beside = args.file.parent / scenario.model
        ref = resolve(str(beside) if beside.exists() else scenario.model, settings)
        source, name = open_source(ref.directory), ref.name
    if scenario.serving is not None:
        from cutset.cli.simulate_fleet import show_fleet
        from cutset.engine.fleet_plan import plan_fleet
        from cutset.engine.stage_simulation import simulated_planner

        with Progress() as progress:
            planner, machines, mesh = simulated_planner(scenario, source, settings, progress)
        show_fleet(plan_fleet(planner, machines, mesh, scenario.serving), planner, args, name)
        return 0
    with Progress() as progress:
        choices, spec = simulated_choices(scenario, source, settings, progress)
    show_choices(choices, args, name, spec)
    return 0
