"""Whether workers fit to an engine's stages and to each other: version, build, number types, instruction set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutset.cluster.messages import Card
from cutset.engine.stage_graph import BUILD
from cutset.engine.stage_runtime import NUMPY, isa_of
from cutset.errors import LinkError, printable
from cutset.version import compatible

__all__ = ["check_card", "common_isa", "cost_of_isa", "isas_of"]


def isas_of(card: Card) -> Sequence[str]:
    """The instruction sets that a worker can compute with, weakest first."""
    return card.isas or [isa_of(card.software)[1]]


def check_card(name: str, card: Card, ours: str, *, dtype: str = "", kv_dtype: str = "", isa: str = "") -> None:
    """Raises LinkError, in words of both sides, for a worker on which tokens could differ, or that can't compute so.

    ours: what this side is called, as `software_of` says. dtype, kv_dtype, isa: what stages are to compute in; "" where
    that isn't known yet.
    """
    theirs = printable(card.software, lines=False)[:100]
    release, _ = isa_of(card.software)
    if not release:
        raise LinkError(f"{name} is no stage of language models but {theirs or 'unknown'}: start `cutset stage`")
    if not compatible(isa_of(ours)[0], release):
        raise LinkError(f"{name} is {theirs}, this side {ours}: tokens may differ. Install the same version on both")
    if card.build and card.build != BUILD:
        raise LinkError(
            f"{name} ({theirs}) is a build of {printable(card.build, lines=False)[:40]}, this side ({ours}) one of "
            f"{BUILD}: tokens may differ. Install the same version on both"
        )
    for what, wanted, able in (
        ("dtype", dtype, card.dtypes),
        ("kv_dtype", kv_dtype, card.kv_dtypes),
        ("instruction set", isa if isa != NUMPY else "", isas_of(card)),
    ):
        if wanted and able and wanted not in able:
            raise LinkError(
                f"{name} ({theirs}) has {what} {printable(', '.join(able), lines=False)[:200]}, and this side wants "
                f"{wanted}: choose one that all have"
            )


def common_isa(cards: Mapping[str, Card], backend: str) -> str:
    """The highest instruction set that all of these workers have; NUMPY where no native code computes. Raises LinkError
    where they share none."""
    if backend != "native":
        return NUMPY
    (first, *others) = [isas_of(card) for card in cards.values()]
    common = [isa for isa in first if all(isa in other for other in others)]
    if not common or common[-1] == NUMPY:
        each = "; ".join(f"{name}: {', '.join(isas_of(card))}" for name, card in cards.items())
        raise LinkError(f"the stages share no instruction set of native code: {printable(each, lines=False)[:600]}")
    return common[-1]


def cost_of_isa(cards: Mapping[str, Card], isa: str) -> str:
    """What it costs that all run at this instruction set, in a line; "" where nobody has a higher one."""
    able = {name: isas_of(card) for name, card in cards.items()}
    if all(one[-1] == isa for one in able.values()) or isa == NUMPY:
        return ""
    bound = ", ".join(name for name, one in able.items() if one[-1] == isa)
    costs = []
    for name, card in cards.items():
        if (best := able[name][-1]) != isa:
            speed = dict(zip(able[name], card.speeds, strict=False)).get(isa, 0.0)
            costs.append(f"{name} computes at {speed:.0%} of its speed with {best}" if speed else f"{name} has {best}")
    who = f"{bound} has no higher one" if bound else "nobody's highest one is everybody's"
    line = f"stages run at {isa}, the highest instruction set that all of them have ({who}): {'; '.join(costs)}"
    return printable(line, lines=False)[:1000]
