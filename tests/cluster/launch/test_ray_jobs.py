"""A stream of pictures and an offload over parties that Ray places: the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.launch.fake_ray import Fakes, until
from cutset.config import load_settings
from cutset.engine.params import SamplingParams
from cutset.link.keys import new_keys, save_keys
from cutset.llm import LLM
from cutset.offload.accelerator.placed import PlacedAccelerator


@pytest.mark.slow
def test_a_node_goes_in_the_middle_of_a_stream(fakes: Fakes) -> None:
    pytest.importorskip("torch")
    from cluster.run.pictures import expected, moving, same, small_model
    from cutset.stream import Stream

    pictures, results, said = moving(12), list[Any](), list[str]()
    how: dict[str, Any] = {"workers": 2, "ray": "auto", "insecure_ray": True, "scheduler": "even"}
    with Stream(small_model(), pictures, log=said.append, patience=60.0, **how) as stream:
        for result in stream:
            results.append(result)
            if len(results) == 2:
                fakes.cluster.remove_node(next(one.node for one in fakes.cluster.made if one.name == "worker1"))
                until(lambda: any("worker1 has ended: its node is gone" in line for line in said))
    same(results, expected(pictures))
    assert fakes.cluster.living() == []


@pytest.mark.slow
def test_an_accelerator_is_placed_and_again_with_another_key(fakes: Fakes, tmp_path: Path) -> None:
    mine = new_keys()
    secret, _ = save_keys(mine, "me", tmp_path)
    params = SamplingParams(temperature=0, max_tokens=8)
    settings = load_settings({"ray": "auto", "insecure_ray": True, "place": ["accelerator=node:b"]})

    def answer() -> list[int]:
        address, key = placed.place
        (tmp_path / "there.pub").write_text(f"{key.hex()} accelerator\n")
        how: dict[str, Any] = {"offload": address, "key": secret, "accelerator_key": tmp_path / "there.pub"}
        with LLM("story", mode="verified", threads=1, **how) as llm:
            return list(llm.generate("Once upon a time", params)[0].outputs[0].token_ids)

    with LLM("story", mode="local", threads=1) as llm:
        whole = list(llm.generate("Once upon a time", params)[0].outputs[0].token_ids)
    said: list[str] = []
    with PlacedAccelerator("story", [], frozenset({mine.public}), settings, said.append) as placed:
        before = placed.place
        assert [one.node for one in fakes.cluster.made] == ["b"]
        assert answer() == whole
        child = fakes.cluster.made[0].party._child
        assert child is not None
        child.process.kill()
        until(lambda: placed.place != before)
        assert placed.place[1] != before[1]
        assert answer() == whole
        placed.serve(lambda: any("public key" in line for line in said))
    assert placed.place[1].hex() in "".join(said)
    assert fakes.cluster.living() == []
