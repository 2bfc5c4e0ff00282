"""What --place says."""

from __future__ import annotations

import pytest

from cutset.cluster.launch.party_needs import Needs, describe_needs, parse_places
from cutset.errors import ConfigError

NAMES = ["stage0", "stage1", "stage2"]
USUAL = Needs(cpus=2.0, memory=1 << 30)


def test_what_is_not_named_stays_as_it_is() -> None:
    found = parse_places(["stage0=gpu:1,node:edge", "stage2 = cpu:0.5, memory:2GiB , fpga:3"], NAMES, USUAL)
    assert found == {
        "stage0": Needs(2.0, 1 << 30, 1.0, "edge"),
        "stage1": USUAL,
        "stage2": Needs(0.5, 2 << 30, resources={"fpga": 3.0}),
    }
    assert list(found) == NAMES
    assert parse_places([], NAMES, USUAL) == dict.fromkeys(NAMES, USUAL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage3=gpu:1", "there is no 'stage3'"),
        ("stag0=gpu:1", "did you mean"),
        ("gpu:1", "write NAME=RESOURCE"),
        ("stage0=", "write NAME=RESOURCE"),
        ("stage0=gpu", "no RESOURCE:AMOUNT"),
        ("stage0=gpu:1,,cpu:1", "no RESOURCE:AMOUNT"),
        ("stage0=gpu:0", "above 0"),
        ("stage0=gpu:-1", "above 0"),
        ("stage0=gpu:nan", "above 0"),
        ("stage0=gpu:1e9", "above 0"),
        ("stage0=cpu:1.5", "a whole number"),
        ("stage0=gpu:1,GPU:2", "twice"),
        ("stage0=memory:lots", "a size"),
        ("stage0=memory:0", "a size"),
        ("stage0=node:a b", "no name of a node"),
        ("stage0=no de:1", "no RESOURCE:AMOUNT"),
    ],
)
def test_what_is_none_is_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_places([text], NAMES, USUAL)
    assert "\n" not in str(caught.value)


def test_a_party_is_named_once() -> None:
    with pytest.raises(ConfigError, match="stage0 twice"):
        parse_places(["stage0=gpu:1", "stage0=cpu:2"], NAMES, USUAL)


def test_in_words() -> None:
    assert describe_needs(Needs(1.0, 512 << 20, 2.0, "edge", {"fpga": 1.0})) == (
        "1 CPU, 2 GPU, 512 MiB, 1 fpga, node edge"
    )
