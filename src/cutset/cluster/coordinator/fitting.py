"""Whether a plan can be played: by these workers, from these sources."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cutset.cluster.messages import MOST_EDGES
from cutset.cluster.model import Model
from cutset.errors import ConfigError
from cutset.partition.plan import Plan
from cutset.video.forms import FORMS
from cutset.video.sources.codec import CODECS, VideoCodec

__all__ = ["check_fits", "lacking"]


def check_fits(plan: Plan, model: Model, workers: Collection[str], codecs: Sequence[VideoCodec | None]) -> None:
    """Raises ConfigError that names what doesn't fit; `workers` are all that the stream has, there or not.

    `codecs` are those of the sources, None where their packets can't be forwarded.
    """
    plan.check(model.graph, model.digest)
    if missing := lacking(plan, workers):
        raise ConfigError(
            f"the plan is for {', '.join(missing)}; the workers are {', '.join(workers)}. Make it for those: "
            "`cutset stream plan --workers NAMES`"
        )
    for names in plan.edges(model.graph):
        if len(names) > MOST_EDGES:
            raise ConfigError(f"the plan cuts {len(names)} values in one place; {MOST_EDGES} is the most")
    picture = model.picture
    if plan.input and plan.input not in FORMS:
        raise ConfigError(f"the plan sends {plan.input!r}, which isn't one of {', '.join(FORMS)}")
    if plan.input and (picture.dtype != "uint8" or len(picture.shape) != 4):
        raise ConfigError(f"the plan sends {plan.input}, which is for networks that take uint8 pictures alone")
    if plan.input == "jpeg" and picture.shape[1] != 3:
        raise ConfigError(f"the plan sends jpeg, which has three colours; the pictures have {picture.shape[1]}")
    if plan.input == "packets" and None in (list(codecs) or [None]):
        which = [i for i, codec in enumerate(codecs) if codec is None]
        raise ConfigError(
            f"the plan sends the video's own packets, and those of source {', '.join(map(str, which)) or 0} can't be "
            f"forwarded: it isn't one of {', '.join(CODECS)}. Make a plan for this source"
        )


def lacking(plan: Plan, workers: Collection[str]) -> list[str]:
    """The workers of a plan that aren't among these."""
    return [stage.worker for stage in plan.stages if stage.worker not in workers]
