"""An engine over stages in other processes writes what it writes in one, whatever happens to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.cluster.messages import Report
from cutset.cluster.trace.chrome import read_trace
from cutset.engine import SamplingParams
from cutset.errors import AdapterError, ConfigError, CutsetError, LinkError
from cutset.link.keys import new_keys, save_keys
from cutset.llm import LLM
from cutset.partition.plan import COORDINATOR, Plan
from engine.stage_processes import Stages, running, until, workers_of

PROMPT = "Once upon a time"
LONG = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=200, temperature=1.0, seed=7, ignore_eos=True)
PENALISED = SamplingParams(
    max_tokens=150, temperature=0.8, seed=5, repetition_penalty=1.2, frequency_penalty=0.3, ignore_eos=True
)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "max_num_seqs": 4, "cache_mib": 4}


@pytest.fixture(scope="module")
def one() -> Iterator[LLM]:
    """The same model in this process."""
    with LLM("story", **SMALL) as llm:
        yield llm


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Three stages that have the model; who kills one starts it again."""
    with running(tmp_path_factory.mktemp("stages"), "a", "b", "c") as stages:
        yield stages


def text(llm: LLM, params: SamplingParams = LONG, at: int = 0, then: Callable[[], None] = lambda: None) -> str:
    """An answer; `then` is called once when so many pieces of it have come."""
    found = ""
    for number, piece in enumerate(llm.stream(PROMPT, params)):
        found += piece.text
        if at and number == at:
            then()
    return found


def test_processes_here_write_the_same(one: LLM) -> None:
    prompts = [PROMPT, "The dog", "She said that the little house by the sea was hers " * 3, "A"]
    each = [
        LONG,
        SAMPLED,
        SamplingParams(max_tokens=40, n=3, temperature=0.8, seed=3, logprobs=2, presence_penalty=0.5),
        SamplingParams(max_tokens=30, repetition_penalty=1.3, top_k=20, top_p=0.9, min_tokens=20, seed=1),
    ]
    with LLM("story", stages=2, **SMALL) as llm:
        assert len(workers_of(llm)) == 2
        got, wanted = llm.generate(prompts, each), one.generate(prompts, each)
        assert [sample.text for answer in got for sample in answer.outputs] == [
            sample.text for answer in wanted for sample in answer.outputs
        ]
        assert [sample.logprobs for sample in got[2].outputs] == [sample.logprobs for sample in wanted[2].outputs]
        again = llm.generate(prompts[2:3], each[2:3])[0]
        assert [sample.text for sample in again.outputs] == [sample.text for sample in wanted[2].outputs]
        assert llm.stats().prefix_hits > 0, "blocks of a prompt are found again"


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(LONG, id="greedy", marks=pytest.mark.slow),
        pytest.param(SAMPLED, id="sampled", marks=pytest.mark.slow),
        pytest.param(PENALISED, id="penalised"),
    ],
)
def test_a_killed_stage_changes_no_token(one: LLM, three: Stages, params: SamplingParams) -> None:
    with LLM("story", **three.settings("a", "b", "c"), **SMALL) as llm:
        assert text(llm, params, 40, lambda: three.kill("b")) == text(one, params)
        assert workers_of(llm) == [three.places["a"], three.places["c"]]
        assert llm.stages is not None
        assert llm.stages.pipeline.failovers == 1
        three.start("b")
        until(lambda: len(workers_of(llm)) == 3)
        assert text(llm, params) == text(one, params), "one that came back is used again"


@pytest.mark.slow
def test_a_killed_stage_changes_no_token_where_plans_are_measured(one: LLM, three: Stages) -> None:
    with LLM("story", **three.settings("a", "b", "c"), scheduler="optimal", **SMALL) as llm:
        before = workers_of(llm)
        name = next(name for name, place in three.places.items() if place == before[0])
        assert text(llm, SAMPLED, 40, lambda: three.kill(name)) == text(one, SAMPLED)
        assert before[0] not in workers_of(llm)
        three.start(name)
        until(lambda: workers_of(llm) == before)
        assert text(llm) == text(one)


def test_a_spare_takes_the_place_over_tcp_with_keys(one: LLM, tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", "b", "c", tcp=True) as stages,
        LLM("story", **stages.settings("a", "b", spares=["c"]), **SMALL) as llm,
    ):
        assert workers_of(llm) == [stages.places["a"], stages.places["b"]]
        assert text(llm, LONG, 40, lambda: stages.kill("a")) == text(one, LONG)
        assert workers_of(llm) == [stages.places["c"], stages.places["b"]]


def test_stages_in_shared_memory_write_the_same_and_may_go(one: LLM, tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", "b", shm=True) as stages,
        LLM("story", **stages.settings("a", "b"), **SMALL) as llm,
    ):
        assert text(llm, SAMPLED, 40, lambda: stages.kill("b")) == text(one, SAMPLED)
        assert workers_of(llm) == [stages.places["a"]]


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_native_code_runs_the_usual_items(kind: str, one: LLM, tmp_path: Path) -> None:
    """Whoever gets an item in Python notes that it decoded it, and whoever sends one, that it encoded it."""
    with (
        running(tmp_path, "a", "b", "c", shm=kind == "shm", tcp=kind == "tcp") as stages,
        LLM("story", **stages.settings("a", "b", "c"), **SMALL) as llm,
    ):
        done: dict[str, list[set[str]]] = {}

        def observe(report: Report, plan: Plan, seconds: float) -> None:
            done.setdefault(report.party, []).append({span.kind for span in report.spans})

        assert llm.stages is not None
        llm.stages.pipeline.observers.append(observe)
        assert text(llm, SAMPLED) == text(one, SAMPLED)
        a, b, c = (stages.places[name] for name in ("a", "b", "c"))
        until(
            lambda: len(done.get(a, ())) > 20 and len(done.get(a, ())) == len(done.get(b, ())) == len(done.get(c, ()))
        )
        for place, kind in ((a, "encode"), (b, "encode"), (b, "decode"), (c, "decode")):
            native = [kinds for kinds in done[place] if kind not in kinds]
            assert native, "how many depends on what else the machine does"
            assert all({"receive", "compute", "send"} <= kinds for kinds in native)


def test_a_stage_comes_back_in_the_middle_of_an_answer(one: LLM, three: Stages) -> None:
    with LLM("story", **three.settings("a", "b"), **SMALL) as llm:

        def restart() -> None:
            three.kill("a")
            three.start("a")

        assert text(llm, SAMPLED, 30, restart) == text(one, SAMPLED)


@pytest.mark.slow
def test_a_frozen_stage_is_found_by_its_silence(one: LLM, tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", "b") as stages,
        LLM("story", **stages.settings("a", "b"), **SMALL) as llm,
    ):
        assert text(llm, LONG, 40, lambda: stages.freeze("b")) == text(one, LONG)
        assert workers_of(llm) == [stages.places["a"]]


def test_several_answers_survive_together(one: LLM, three: Stages) -> None:
    prompts = [f"{PROMPT} {word}" for word in ("a", "the", "one", "some", "little", "big")]
    each = [SamplingParams(max_tokens=60, temperature=0.9, seed=i, ignore_eos=True) for i in range(len(prompts))]
    wanted = [answer.outputs[0].text for answer in one.generate(prompts, each)]
    with LLM("story", **three.settings("a", "b"), **SMALL) as llm:
        asked = zip(prompts, each, strict=True)
        handles = [llm._loop.submit(llm.encode(prompt), llm.params(own)) for prompt, own in asked]
        assert handles[0].get(20.0) is not None
        three.kill("b")
        three.start("b")
        got = [handle.result(30.0).outputs[0] for handle in handles]
    assert [sample.text for sample in got[1:]] == wanted[1:]


def test_without_enough_memory_requests_wait_and_end_with_what_is_missing(one: LLM, tmp_path: Path) -> None:
    with running(tmp_path, "a", "b", extra=["--memory", "13MB"]) as stages:
        how = stages.settings("a", "b") | SMALL | {"patience": 2.0}
        with LLM("story", **how) as llm:
            with pytest.raises(CutsetError, match=r"need about .* MiB .* may use 12 MiB"):
                text(llm, LONG, 20, lambda: stages.kill("b"))
            stages.start("b", extra=["--memory", "13MB"])
            assert text(llm) == text(one), "later requests find what has come back"
            assert len(workers_of(llm)) == 2


def test_the_cache_is_what_the_stages_have_memory_for(
    one: LLM, three: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = SMALL | {"cache_mib": 0, "max_num_seqs": 64}
    with LLM("story", **three.settings("a"), **more) as llm:
        wanted = llm.stats().blocks
    with (
        running(tmp_path, "a", "b", extra=["--memory", "13MB"]) as stages,
        LLM("story", **stages.settings("a", "b"), **more) as llm,
    ):
        found = llm.stats().blocks
        assert wanted > found > 85, "more than 4 MiB, less than was wanted"
        assert text(llm) == text(one)
        llm.close()
        monkeypatch.setattr("cutset.models.run.backend.free_bytes", lambda device: 1 << 20)
        with LLM("story", **stages.settings("a", "b"), **more) as llm:
            assert llm.stats().blocks == found, "what this machine has free doesn't count"


def test_weights_are_sent_once_and_kept(one: LLM, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with running(tmp_path, "a", "b", model="", extra=["--cache", str(cache)]) as stages:
        with LLM("story", **stages.settings("a", "b"), **SMALL) as llm:
            assert text(llm) == text(one)
        files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
        assert len(files) > 40
        with LLM("story", **stages.settings("a", "b"), **SMALL) as llm:
            assert text(llm) == text(one)
        assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files


LATER = "She said that the little house by the sea was hers " * 3
BRIEF = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)


def test_stages_keep_beginnings_on_their_disks(one: LLM, tmp_path: Path) -> None:
    right, kept = one.generate(LATER, BRIEF)[0].outputs[0].text, tmp_path / "kept"
    with running(tmp_path, "a", "b", extra=["--prefix-cache", str(kept), "--prefix-cache-size", "1GiB"]) as stages:
        for other, hits in (({}, False), ({}, True), ({"kv_dtype": "int8"}, False), ({"max_model_len": 255}, False)):
            with LLM("story", **(stages.settings("a", "b") | SMALL | other)) as llm:
                [got] = llm.generate(LATER, BRIEF)
                assert got.outputs[0].text == right or "kv_dtype" in other
                assert (llm.stats().stored_hits > 30) == hits, "what bytes depend on keeps blocks apart"
            until(lambda: len(list(kept.rglob("*.kv"))) >= 4)
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_processes_here_keep_beginnings_over_a_restart(one: LLM, tmp_path: Path) -> None:
    right, kept = one.generate(LATER, BRIEF)[0].outputs[0].text, tmp_path / "kept"
    for hits in (False, True):
        with LLM("story", stages=2, prefix_cache=kept, **SMALL) as llm:
            [got] = llm.generate(LATER, BRIEF)
            assert got.outputs[0].text == right
            assert (llm.stats().stored_hits > 30) == hits
            until(lambda: len(list(kept.rglob("*.kv"))) >= 4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_other_backends_run_in_stages_and_say_what_they_do_not_promise(backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    short = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    with LLM("story", backend=backend, **SMALL) as llm:
        right = text(llm, short)
    with pytest.warns(UserWarning, match=f"the {backend} backend can change tokens"):
        llm = LLM("story", backend=backend, stages=2, **SMALL)
    with llm:
        assert text(llm, short) == right


def test_what_cannot_be_is_said(three: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = three.settings("a", "b")["stages"]
    for wrong, words in (
        ({"stages": [a, a]}, "names .* twice"),
        ({"stages": [a], "spares": [a]}, "both in --stages and in --spares"),
        ({"stages": ["tcp://127.0.0.1:1"]}, "needs its public key"),
        ({"stages": ["inproc://x"]}, "no address of a stage"),
        ({"stages": 9}, "at most 6 stages"),
        ({"stages": 2, "stage_keys": [tmp_path]}, "for stages at addresses"),
        ({"spares": [a]}, "name them with --stages"),
        ({"stages": [a], "offload": "shm://x"}, "don't go together"),
        ({"stages": [a], "prefix_cache": tmp_path}, "don't go together"),
        ({"stages": [a], "backend": "torch", "device": "cuda"}, "device of its own"),
        ({"stages": [a], "adapters": {"x": tmp_path}}, "no adapter_config.json"),
    ):
        with pytest.raises((ConfigError, AdapterError), match=words):
            LLM("story", **wrong, **SMALL)
    monkeypatch.setattr("cutset.engine.linked_stages.STARTING", 0.5)
    with pytest.raises(LinkError, match="can't be used"):
        LLM("story", stages=[a, f"ipc://{tmp_path}/nobody"], **SMALL)
    monkeypatch.undo()
    with LLM("story", stages=[a, b], **SMALL), pytest.raises(LinkError, match="serves another coordinator"):
        LLM("story", stages=[a, b], **SMALL)


def test_another_version_is_refused_by_name(three: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.engine.stage_planning.software_of", lambda isa: f"cutset 0.0.0, stages, {isa}")
    with pytest.raises(LinkError, match=r"is cutset .*, this side cutset 0\.0\.0.*Install the same version"):
        LLM("story", **three.settings("a"), **SMALL)


def test_the_command_line_says_where_layers_run(
    three: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = three.settings("a", "b")["stages"]
    assert main(["stage", "--status", a]) == 0
    assert "yes: it waits for an engine" in capsys.readouterr().out
    words = ["generate", "story", "--prompt", PROMPT, "--max-tokens", "12", "--threads", "1", "--cache-mib", "4"]
    assert main(words) == 0
    alone = capsys.readouterr()
    assert main([*words, "--stages", f"{a},{b}"]) == 0
    staged = capsys.readouterr()
    assert staged.out == alone.out
    assert f"stages: {a} layers 0-2, {b} layers 3-5" in staged.err
    assert main([*words, "--trace", str(tmp_path / "trace.json")]) == 2
    assert "give --stages" in capsys.readouterr().err
    assert main([*words, "--stages", f"{a},{b}", "--trace", str(tmp_path / "trace.json")]) == 0
    assert capsys.readouterr().out == alone.out
    trace = read_trace(tmp_path / "trace.json")
    assert (trace.title, list(trace.timeline)) == ("cutset generate story", [COORDINATOR, a, b])
    assert trace.notes["plan 1"] == f"{a} layers 0-2, {b} layers 3-5"
    computed = [{span.number for span in trace.timeline[one] if span.kind == "compute"} for one in (a, b)]
    assert computed[0] == computed[1] == {span.number for span in trace.timeline[COORDINATOR]}
    assert len(computed[0]) >= 12, "a step for each token"
    for number in computed[0]:
        first, second = (
            next(span for span in trace.timeline[one] if (span.kind, span.number) == ("compute", number))
            for one in (a, b)
        )
        assert first.start < first.end <= second.end
        assert first.start < second.start
    assert main(["stream", "trace", str(tmp_path / "trace.json")]) == 0
    assert a[:12] in capsys.readouterr().out
    with LLM("story", stages=[a], **SMALL):
        assert main(["stage", "--status", a]) == 1
    assert "serves another coordinator" in capsys.readouterr().out
    assert main(["generate", "story", "--prompt", PROMPT, "--stages", f"{a},{a}"]) == 2
    assert "names" in capsys.readouterr().err


def test_a_stage_with_another_key_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.engine.linked_stages.STARTING", 1.5)
    with running(tmp_path, "a", tcp=True) as stages:
        right = stages.settings("a")
        save_keys(new_keys(), "other", tmp_path)
        for wrong in ({"stage_keys": [tmp_path / "other.pub"]}, {"key": tmp_path / "other.key"}):
            with pytest.raises(LinkError, match="can't be used"):
                LLM("story", **(right | wrong), **SMALL)
        with LLM("story", **right, **SMALL) as llm:
            assert workers_of(llm) == [stages.places["a"]], "the worker stays up"


HOLDS = """
import sys, time
from cutset.llm import LLM
llm = LLM("story", stages=sys.argv[1:], threads=1, cache_mib=4)
print("up", flush=True)
time.sleep(60)
"""


def test_stages_wait_for_the_next_engine_when_theirs_dies(one: LLM, three: Stages) -> None:
    how = three.settings("a", "b")
    with subprocess.Popen([sys.executable, "-c", HOLDS, *how["stages"]], stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "up\n"
        finally:
            first.kill()
    with LLM("story", **how, **SMALL) as llm:
        assert text(llm) == text(one)
