"""Stages that nobody can dial: they dial in, are relayed to each other, and come back after a loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.engine import SamplingParams
from cutset.errors import ConfigError, LinkError
from cutset.link.keys import new_keys, save_keys
from cutset.llm import LLM
from engine.stage_processes import Stages, running, until, workers_of

PROMPT = "Once upon a time"
SAMPLED = SamplingParams(max_tokens=120, temperature=1.0, seed=7, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "max_num_seqs": 4, "cache_mib": 4}


@pytest.fixture(scope="module")
def wanted() -> str:
    """What one process writes."""
    with LLM("story", **SMALL) as llm:
        return text(llm)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """`a` and `b` dial in, and do so before anybody is there; `c` listens."""
    with running(tmp_path_factory.mktemp("joined"), "a", "b", "c", joins=("a", "b")) as found:
        yield found


def text(llm: LLM, at: int = 0, then: Any = None) -> str:
    found = ""
    for number, piece in enumerate(llm.stream(PROMPT, SAMPLED)):
        found += piece.text
        if at and number == at:
            then()
    return found


def test_two_that_dial_in_are_relayed_and_one_that_dies_and_dials_again_is_used_again(
    stages: Stages, wanted: str
) -> None:
    with LLM("story", **stages.settings("a", "b"), **SMALL) as llm:
        assert workers_of(llm) == ["join://a", "join://b"]
        assert text(llm) == wanted
        assert text(llm, 30, lambda: stages.kill("b")) == wanted
        assert workers_of(llm) == ["join://a"]
        stages.start("b")
        until(lambda: len(workers_of(llm)) == 2)
        assert text(llm) == wanted
        assert llm.stages is not None
        coordinator = llm.stages.pipeline._coordinator
        assert coordinator is not None
        relayed = coordinator.links.hop("join://a", "join://b")
        assert relayed.latency > 0, "what is relayed has a price, before anything was seen of it"


@pytest.mark.parametrize("names", [("a", "c"), ("c", "a")])
def test_those_that_dial_in_and_those_that_listen_go_together(
    stages: Stages, wanted: str, names: tuple[str, str]
) -> None:
    """After a coordinator has gone the same stages serve the next one."""
    with LLM("story", **stages.settings(*names, spares=["b"]), **SMALL) as llm:
        assert workers_of(llm) == [stages.places[name] for name in names]
        assert text(llm) == wanted


def test_a_number_of_stages_waits_for_those_with_keys(stages: Stages, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ",".join(str(stages.folder / f"{name}.pub") for name in "ab")
    words = ["generate", "story", "--prompt", PROMPT, "--max-tokens", "8", "--threads", "1", "--cache-mib", "4"]
    words += ["--key", str(stages.folder / "me.key"), "--stages-listen", stages.meeting, "--stage-keys", keys]
    assert main(words) == 0
    assert "stages: join://a layers 0-2, join://b layers 3-5" in capsys.readouterr().err
    assert main([*words, "--stages", "3"]) == 2
    assert "waits for 3 stages, and --stage-keys names 2" in capsys.readouterr().err


def test_what_cannot_be_is_said(stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = stages.settings("a", "b")
    save_keys(new_keys(), "other", tmp_path)
    for change, words in (
        ({"stages_listen": ""}, "say where this side listens"),
        ({"stages_listen": "tcp://nothing"}, "write tcp://HOST:PORT"),
        ({"stages_listen": "ipc:///tmp/x"}, "--stages-listen must be"),
        ({"stages": ["join://a", "join://a"]}, "names join://a twice"),
        ({"stages": ["join://../x", "join://b"]}, "no address of a stage"),
        ({"stage_keys": right["stage_keys"][:1] * 2}, "has the public key of another"),
        ({"stage_keys": right["stage_keys"][:1]}, "names 1 keys for 2 stages"),
        ({"stage_keys": []}, "needs its public key"),
        ({"key": None}, "needs --key"),
        ({"stages": [stages.places["c"]], "stage_keys": [stages.folder / "c.pub"]}, "for stages that dial in"),
        ({"spares": [f"ipc://{tmp_path}/x"]}, "without which it can't reach a stage that dials in"),
    ):
        with pytest.raises(ConfigError, match=words):
            LLM("story", **(right | change), **SMALL)
    monkeypatch.setattr("cutset.engine.linked_stages.JOINING", 0.5)
    wrong = right | {"stage_keys": [tmp_path / "other.pub", stages.folder / "b.pub"], "patience": 0.5}
    with pytest.raises(LinkError, match=r"join://a can.t be used: it hasn.t dialled in at tcp://127\.0\.0\.1"):
        LLM("story", **wrong, **SMALL)
    for flags, words in (
        (["--join", "ipc:///tmp/x"], "listens at tcp://HOST:PORT"),
        (["--join", "tcp://127.0.0.1:7000"], "needs --key"),
        (["--join", "tcp://127.0.0.1:7000", "--listen", "ipc:///tmp/x"], "not allowed with"),
    ):
        try:
            code = main(["stage", *flags])
        except SystemExit as error:  # argparse's own
            code = int(str(error.code))
        assert code == 2, words
