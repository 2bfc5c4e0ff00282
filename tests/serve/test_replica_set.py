"""Replicas come and go: what becomes of requests, and how many replicas there are."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.config import load_settings
from cutset.engine.delivery import Letter
from cutset.engine.grammar import Grammar
from cutset.engine.outputs import Delta, Usage
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, CutsetError, EngineError, FrameError, HandshakeError, LinkError, RequestError
from cutset.link import Frame, connect, listen
from cutset.link.keys import new_keys, save_keys
from cutset.link.peer import Handshake, Protocol
from cutset.llm import AsyncLLM
from cutset.serve.replicas.replica import Replica
from cutset.serve.replicas.replica_launchers import GivenReplicas, setting_flags
from cutset.serve.replicas.replica_messages import (
    LIMITS,
    PROTOCOL,
    CancelRequest,
    EmbedTexts,
    ReplicaFacts,
    ReplicaPieces,
    ResumedOutputs,
    SubmitRequest,
    WireDelta,
    pack,
    params_from,
    params_to_wire,
    read_from_front,
    read_from_replica,
)
from cutset.serve.replicas.replica_scale import ReplicaScale, read_bounds
from cutset.serve.replicas.replica_set import ReplicaSet, ReplicaTimes
from cutset.serve.replicas.replicated_llm import ReplicatedLLM, cache_of_each
from tests.serve.fake_replicas import FACTS, QUICK, Fake, answer, faked, until

Message = SubmitRequest | EmbedTexts | CancelRequest
IDS = np.arange(2, dtype=np.int32)


def ask(replicas: ReplicaSet, count: int = 1) -> list[list[Delta]]:
    """What comes of some requests; they are waited for elsewhere."""
    found: list[list[Delta]] = [[] for _ in range(count)]
    for number in range(count):
        ids = np.array([number, 1], dtype=np.int32)
        replicas.submit(ids, SamplingParams(max_tokens=8), found[number].append)
    return found


def ended(found: list[list[Delta]]) -> bool:
    return all(one and one[-1].finished for one in found)


def ids_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def came(replicas: ReplicaSet, fake: Fake) -> int:
    """Tokens of this one that have arrived: a link that breaks drops what is on its way."""
    return sum(one.generated for one in list(replicas._up.values()) if one.launched is fake)


def test_a_request_is_answered_and_has_a_seed(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 1)) as (launcher, replicas, _):
        [deltas] = found = ask(replicas)
        until(lambda: ended(found))
        assert ids_of(deltas) == list(range(8))
        [asked] = launcher.started[0].asked
        assert isinstance(asked, SubmitRequest)
        assert asked.params["seed"] is not None
    assert launcher.closed
    with pytest.raises(EngineError):
        ask(replicas)


def test_one_that_is_lost_is_replaced_and_its_requests_go_on(tmp_path: Path) -> None:
    def half(fake: Fake, message: Message) -> None:
        if isinstance(message, SubmitRequest) and message.resumed is None:
            for token in range(5):
                fake.token(message.number, token)
            until(lambda: came(replicas, fake) == 5)
            fake.over.set()
        else:
            answer(fake, message)

    with faked(tmp_path, ReplicaScale(2, 2), half) as (launcher, replicas, said):
        found = ask(replicas, 2)
        until(lambda: ended(found))
        assert [ids_of(one) for one in found] == [list(range(8))] * 2
        assert all(one[-1].usage is not None and one[-1].usage.completion_tokens == 8 for one in found)
        until(lambda: len(replicas.states()) == 2)
        assert replicas.lost >= 1
        assert replicas.resumed >= 1
        assert any("was lost" in line for line in said)
        assert len(launcher.started) >= 3
        assert replicas.stats().generated_tokens == 16, "those that came, whatever replicas say of themselves"


def test_what_was_given_out_is_counted_once_whatever_becomes_of_replicas(tmp_path: Path) -> None:
    """Replicas are lost between two pieces and after the last token; one leaves in order."""

    def some(fake: Fake, message: Message) -> None:
        if not isinstance(message, SubmitRequest):
            return
        begun = 0 if message.resumed is None else len(message.resumed.outputs[0]) // 4
        for token in range(begun, min(8, begun + 3)):  # the second and the third replica go on
            fake.token(message.number, token, last=token == 7)
        until(lambda: came(replicas, fake) == min(8, begun + 3) - begun)
        fake.over.set()

    with faked(tmp_path, ReplicaScale(1, 1), some) as (launcher, replicas, _):
        found = ask(replicas)
        until(lambda: ended(found))
        assert ids_of(found[0]) == list(range(8))
        assert [one.finish_reason for one in found[0] if one.finish_reason] == ["length"]
        until(lambda: replicas.lost == 3 and replicas.ready)
        assert (replicas.stats().generated_tokens, replicas.resumed) == (8, 2)
        assert replicas.stats().prompt_tokens >= 3 * 5, "work is what replicas did, as far as they said so"
        launcher.started[-1].handle, launcher.handle = answer, answer
        found = ask(replicas, 3)
        until(lambda: ended(found))
        with replicas._lock:
            [last] = replicas._up.values()
            last.draining = True
        until(lambda: last.name not in replicas._up or replicas._up[last.name] is not last)
        until(lambda: replicas.ready)
        assert replicas.lost == 3
        assert replicas.stats().generated_tokens == 8 + 3 * 8


def test_what_was_cancelled_ends_once_where_its_replica_is_lost(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 1), lambda fake, message: None) as (launcher, replicas, _):
        got: list[Delta] = []
        cancel = replicas.submit(IDS, SamplingParams(n=3), got.append)
        until(lambda: bool(launcher.started[0].asked))
        launcher.started[0].give([WireDelta(1, 1, "a", (1,), "stop", cached_tokens=0), WireDelta(1, 2, "b", (2,))])
        until(lambda: len(got) == 2)
        cancel()
        launcher.started[0].over.set()
        until(lambda: got[-1].finished)
        assert [(one.index, one.finish_reason) for one in got] == [(1, "stop"), (2, None), (0, "abort"), (2, "abort")]
        assert (got[-1].usage, got[-1].error) == (Usage(2, 2, 0), None)
        cancel()
        until(lambda: replicas.ready)
        assert (replicas.stats().generated_tokens, replicas.resumed, len(got)) == (2, 0, 4)


def test_whoever_waits_for_several_requests_is_told_once_of_a_step(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 1), lambda fake, message: None) as (launcher, replicas, _):
        one, other = list[list[Letter]](), list[list[Letter]]()
        for deliver in (one.append, other.append, one.append):
            replicas.submit(IDS, SamplingParams(), str, deliver=deliver)
        until(lambda: len(launcher.started[0].asked) == 3)
        launcher.started[0].give([WireDelta(number, 0, str(number), (number,)) for number in (1, 2, 3, 1)])
        until(lambda: bool(one and other))
        assert [[delta.text for _, delta in letters] for letters in one] == [["1", "3", "1"]]
        assert [[delta.text for _, delta in letters] for letters in other] == [["2"]]
        assert replicas.stats().generated_tokens == 4


def test_what_ends_every_replica_is_given_up(tmp_path: Path) -> None:
    def poisoned(fake: Fake, message: Message) -> None:
        if isinstance(message, SubmitRequest) and message.ids[:4] == b"\0\0\0\0":
            fake.over.set()
        else:
            answer(fake, message)

    with faked(tmp_path, ReplicaScale(1, 1), poisoned) as (launcher, replicas, _):
        [bad, good] = found = ask(replicas, 2)
        until(lambda: ended(found))
        assert isinstance(bad[-1].error, EngineError)
        assert ids_of(good) == list(range(8))
        assert len(launcher.started) == 4


def test_one_that_says_nothing_is_lost(tmp_path: Path) -> None:
    quick = replace(QUICK, silence=3.0)
    with faked(tmp_path, ReplicaScale(1, 1), lambda fake, message: None, quick) as (launcher, replicas, said):
        found = ask(replicas)
        until(lambda: bool(launcher.started[0].asked))
        launcher.handle = answer
        launcher.started[0].beats = False
        until(lambda: ended(found))
        assert ids_of(found[0]) == list(range(8))
        assert any("nothing came" in line for line in said)


def test_there_are_more_while_requests_wait_and_fewer_after(tmp_path: Path) -> None:
    held = threading.Event()

    def hold(fake: Fake, message: Message) -> None:
        if held.is_set():
            answer(fake, message)

    scale = ReplicaScale(1, 3, up_s=0.05, down_s=0.15)
    with faked(tmp_path, scale, hold) as (launcher, replicas, said):
        assert len(replicas.states()) == 1
        found = ask(replicas, 9)
        until(lambda: len(replicas.states()) == 3)
        until(lambda: sum(one.samples for one in replicas.states()) == 9)
        assert max(one.samples for one in replicas.states()) <= FACTS.slots
        held.set()
        for fake in launcher.started:
            for message in list(fake.asked):
                answer(fake, message)
        until(lambda: ended(found))
        assert [ids_of(one) for one in found] == [list(range(8))] * 9
        until(lambda: len(replicas.states()) == 1)
        assert any("takes no more requests" in line for line in said)
        assert replicas.lost == 0, "those that weren't needed aren't lost"


def test_one_that_is_drained_finishes_what_it_runs(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 2, down_s=0.05), lambda fake, message: None) as (launcher, replicas, _):
        replicas._target = 2
        until(lambda: len(replicas.states()) == 2)
        found = ask(replicas, 2)
        until(lambda: any(one.draining for one in replicas.states()))
        [draining] = [one for one in replicas.states() if one.draining]
        launcher.handle = answer
        later = ask(replicas, 1)
        if draining.samples:
            assert len(replicas.states()) == 2, "it still runs something"
        for fake in launcher.started:
            fake.handle = answer
            for message in list(fake.asked):
                answer(fake, message)
        until(lambda: ended(found) and ended(later))
        until(lambda: len(replicas.states()) == 1)


def test_a_request_is_cancelled_where_it_is(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 1), lambda fake, message: None) as (launcher, replicas, _):
        cancels = [replicas.submit(IDS, SamplingParams(), lambda delta: None) for _ in range(FACTS.slots)]
        waited: list[Delta] = []
        cancels.append(replicas.submit(IDS, SamplingParams(), waited.append))
        until(lambda: len(launcher.started[0].asked) == FACTS.slots)
        assert replicas.stats().waiting == 1
        for cancel in reversed(cancels):
            cancel()
            cancel()
        assert replicas.stats().waiting == 0
        assert [one.finish_reason for one in waited] == ["abort"], "as in an engine"
        until(lambda: sum(isinstance(one, CancelRequest) for one in launcher.started[0].asked) == FACTS.slots)


def test_one_that_has_less_room_or_other_adapters_isnt_taken(tmp_path: Path) -> None:
    with faked(tmp_path, ReplicaScale(1, 2)) as (launcher, replicas, said):
        for wrong in ({"context": 64}, {"adapters": ["other"]}, {"model": "another"}):
            launcher.facts = msgspec.structs.replace(FACTS, **wrong)
            said.clear()
            replicas._target = 2
            until(lambda: any("couldn't be started" in line for line in said))
        launcher.facts = FACTS
        until(lambda: len(replicas.states()) == 2)


@pytest.mark.parametrize("text", ["0", "65", "3-2", "a", "1-", "-2", "1.5", "1-65", ""])
def test_bounds_that_cant_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--replicas"):
        read_bounds(text)


def test_how_many_are_wanted() -> None:
    assert read_bounds("2") == (2, 2)
    assert read_bounds("1-4") == (1, 4)
    scale = ReplicaScale(1, 3, up_s=2, down_s=60)
    assert scale.wanted(0, 1, 8, 4, 4) == 1
    assert scale.wanted(1, 1, 4, 4, 0) == 1
    assert scale.wanted(2, 1, 8, 4, 4) == 1, "it has to wait for two seconds in one piece"
    assert scale.wanted(4, 1, 8, 4, 4) == 2
    assert scale.wanted(5, 2, 12, 4, 4) == 2
    assert scale.wanted(6, 2, 12, 4, 4) == 3
    assert scale.wanted(60, 3, 30, 4, 18) == 3
    assert scale.wanted(61, 3, 5, 4, 0) == 3, "more than half of two"
    assert scale.wanted(62, 3, 4, 4, 0) == 3
    assert scale.wanted(122, 3, 4, 4, 0) == 2
    assert scale.wanted(123, 2, 0, 4, 0) == 2
    assert scale.wanted(182, 2, 0, 4, 0) == 1
    assert scale.wanted(1000, 1, 0, 4, 0) == 1


def test_parameters_travel_whole() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for params in (
        SamplingParams(),
        SamplingParams(n=3, max_tokens=None, seed=2**64 - 1, stop=["a", "b"], stop_token_ids=[1], ignore_eos=True),
        SamplingParams(logit_bias={5: -100, 7: 1.5}, allowed_token_ids=[1, 2], bad_words=["x"], logprobs=0),
        SamplingParams(structured_outputs=Grammar.json_schema(schema, asked="response_format")),
        SamplingParams(structured_outputs=Grammar.regex("[a-z]+")),
        SamplingParams(structured_outputs=Grammar.choice(["yes", "no"])),
    ):
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(params_to_wire(params)))
        assert params_from(sent) == params
        assert params_from(sent).with_defaults({"temperature": 0.1, "top_k": 3}) == params, "nobody else decides"
    for wrong in ({"temprature": 1}, {"structured_outputs": ["json", 1, None, ""]}, {"structured_outputs": "{}"}):
        with pytest.raises(FrameError):
            params_from(wrong)
    with pytest.raises(RequestError):
        params_from({"temperature": -1})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["submit", -1, b"", {}, None, None, None]),
        msgspec.msgpack.encode(["submit", 1, b"", {}, None]),
        msgspec.msgpack.encode(["facts", 1]),
        msgspec.msgpack.encode(["embed", 1, [], "last", None]),
        msgspec.msgpack.encode(["embed", 1, [b"1234"], "first", None]),
        b"\x91" * 100_000,
    ],
)
def test_messages_that_make_no_sense(data: bytes) -> None:
    arrays: Any = (np.frombuffer(data, dtype=np.uint8),)
    for read in (read_from_front, read_from_replica):
        with pytest.raises(FrameError):
            read(Frame(b"", arrays))
        for wrong in ((), (arrays[0].view(np.int8),), (arrays[0], arrays[0])):
            with pytest.raises(FrameError):
                read(Frame(b"", wrong))


@contextlib.contextmanager
def one_replica(folder: Path) -> Iterator[tuple[AsyncLLM, Replica, str]]:
    """A replica of the bundled model in this process, and where it is."""
    llm = AsyncLLM("story", settings=load_settings({"threads": 1, "cache_mib": 2, "max_model_len": 64}))
    address, over = f"ipc://{folder}/replica", threading.Event()
    replica = Replica(llm, listen(address, limits=LIMITS))
    thread = threading.Thread(target=replica.serve, args=(over.is_set,))
    thread.start()
    try:
        yield llm, replica, address
    finally:
        over.set()
        thread.join()
        replica.close()
        llm.close()


def test_a_replica_serves_one_front_and_refuses_nonsense(tmp_path: Path) -> None:
    with one_replica(tmp_path) as (llm, replica, address):
        dialled = Handshake(PROTOCOL, replica.facts.model).dial(lambda: connect(address, limits=LIMITS), timeout=10)
        first = read_from_replica(dialled.link.recv(10))
        assert isinstance(first, ReplicaFacts)
        assert (first.context, first.backend) == (64, llm.choice.backend)
        with pytest.raises(HandshakeError, match="serves another front"):
            Handshake(PROTOCOL).dial(lambda: connect(address, limits=LIMITS), timeout=10)
        with pytest.raises(HandshakeError, match="another model"):
            Handshake(PROTOCOL, "0" * 64).dial(lambda: connect(address, limits=LIMITS), timeout=10)
        stranger = Handshake(Protocol("offload", 1, "accelerator"))
        with pytest.raises(HandshakeError):
            stranger.dial(lambda: connect(address, limits=LIMITS), timeout=10)
        wrong_output = ResumedOutputs([b"\xff\xff\xff\x7f"], [], 0)
        for number, (ids, params, resumed) in enumerate(
            (
                (b"\0" * 4 * 1000, {"max_tokens": 1}, None),
                (b"\xff\xff\xff\x7f", {"max_tokens": 1}, None),
                (b"\0\0\0", {"max_tokens": 1}, None),
                (b"\1\0\0\0", {"no_such": 1}, None),
                (b"\1\0\0\0", {"max_tokens": 4, "seed": 1}, wrong_output),
            )
        ):
            pack(dialled.link, SubmitRequest(number, ids, params, None, None, resumed))
            error = first_piece(dialled.link).error
            assert error is not None
        pack(dialled.link, EmbedTexts(50, [b"\xff\xff\xff\x7f"], "last", None))
        pack(dialled.link, SubmitRequest(51, b"\1\0\0\0", {"max_tokens": 2, "seed": 1}, None, "nobody", None))
        assert "no adapter" in str(first_piece(dialled.link).error)
        pack(dialled.link, SubmitRequest(52, b"\1\0\0\0", {"max_tokens": 4000, "ignore_eos": True}, None, None, None))
        pack(dialled.link, SubmitRequest(52, b"\1\0\0\0", {"max_tokens": 1}, None, None, None))
        with pytest.raises(CutsetError):  # the number is in use, and that front is sent away
            drain(dialled.link)
        dialled.link.close()
        until(lambda: llm.stats().running == 0)
        again = Handshake(PROTOCOL).dial(lambda: connect(address, limits=LIMITS), timeout=10)
        again.link.close()


def test_whoever_has_the_last_token_finds_it_counted(tmp_path: Path) -> None:
    """Between two heartbeats, too: what a server counts when it stops is all that it gave out."""
    with one_replica(tmp_path) as (_, _, address):
        dialled = Handshake(PROTOCOL).dial(lambda: connect(address, limits=LIMITS), timeout=10)
        params = {"max_tokens": 3, "seed": 1, "ignore_eos": True}
        for number in range(1, 4):
            pack(dialled.link, SubmitRequest(number, b"\1\0\0\0", params, None, None, None))
            counted, ended = 0, False
            while not ended:
                message = read_from_replica(dialled.link.recv(10))
                if isinstance(message, ReplicaPieces):
                    counted, ended = message.stats.generated_tokens, message.deltas[-1].finished
            assert counted == 3 * number
        dialled.link.close()


def test_a_replica_whose_engine_ends_breaks_off_and_says_nothing_of_requests(tmp_path: Path) -> None:
    """So that another one goes on with them, rather than that they fail."""
    llm = AsyncLLM("story", settings=load_settings({"threads": 1, "cache_mib": 2, "max_model_len": 64}))
    address = f"ipc://{tmp_path}/replica"
    replica = Replica(llm, listen(address, limits=LIMITS))
    thread = threading.Thread(target=lambda: (replica.serve(lambda: False), replica.close()))
    thread.start()

    def broken(*args: Any, **more: Any) -> Any:
        raise SystemExit("the device is gone")

    llm.executor.forward = broken
    dialled = Handshake(PROTOCOL).dial(lambda: connect(address, limits=LIMITS), timeout=10)
    pack(dialled.link, SubmitRequest(1, b"\1\0\0\0", {"max_tokens": 8, "seed": 1}, None, None, None))
    with pytest.raises(LinkError):
        first_piece(dialled.link)
    thread.join(10)
    assert not thread.is_alive(), "its process ends, and is started again"
    dialled.link.close()
    llm.close()


def test_replicas_at_addresses_know_their_server_by_its_key(tmp_path: Path) -> None:
    ours, theirs, stranger = new_keys(), new_keys(), new_keys()
    settings = load_settings({"threads": 1, "cache_mib": 2, "max_model_len": 64})
    save_keys(ours, "server", tmp_path)
    save_keys(stranger, "stranger", tmp_path)
    with contextlib.ExitStack() as stack:
        llm = AsyncLLM("story", settings=settings)
        stack.callback(llm.close)
        listener = listen("tcp://127.0.0.1:0", keys=theirs, allow={ours.public}, limits=LIMITS)
        replica = Replica(llm, listener, theirs)
        over = threading.Event()
        thread = threading.Thread(target=replica.serve, args=(over.is_set,))
        thread.start()
        stack.callback(replica.close)
        stack.callback(thread.join)
        stack.callback(over.set)
        times = ReplicaTimes(starting=2, refused=0)
        scale = ReplicaScale(2, 2)
        nobody = ("tcp://127.0.0.1:9", theirs.public)

        def served(key: str, public: bytes) -> ReplicatedLLM:
            own = load_settings({"threads": 1, "key": tmp_path / f"{key}.key"})
            launcher = GivenReplicas([(listener.address, public), nobody])
            return ReplicatedLLM("story", launcher, scale, settings=own, times=times, all_of_them=False)

        for key, public in (("stranger", theirs.public), ("server", stranger.public)):
            with pytest.raises(LinkError):
                served(key, public)
        front = served("server", theirs.public)
        stack.callback(front.close)
        assert [one.name for one in front.replicas.states()] == ["replica1"], "the other one is dialled again and again"
        params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
        prompt = "Once upon a time"
        found = asyncio.run(front.generate(prompt, params))
        assert found.token_ids == asyncio.run(llm.generate(prompt, params)).token_ids
        assert front.embeddings.vectors([front.encode(prompt)]) == pytest.approx(
            llm.embeddings.vectors([llm.encode(prompt)])
        )


def drain(link: Any) -> None:
    """Reads until there is no more."""
    while True:
        link.recv(10).release()


def first_piece(link: Any) -> Any:
    """The next delta, between heartbeats."""
    while True:
        message = read_from_replica(link.recv(10))
        for one in getattr(message, "deltas", ()):
            return one


def test_caches_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"threads": 1})
    assert cache_of_each("story", settings, 4) == 0, "each gets all that it could need"
    assert cache_of_each("story", load_settings({"cache_mib": 7}), 4) == 7
    monkeypatch.setattr("cutset.models.run.backend.free_bytes", lambda device: 64 << 20)
    both, four = cache_of_each("story", settings, 2), cache_of_each("story", settings, 4)
    assert 0 < four <= both // 2
    assert 2 * both <= 64


def test_flags_give_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from cutset.cli.options import add_settings, settings_from

    settings = load_settings(
        {
            "threads": 8,
            "dtype": "float32",
            "prefix_caching": False,
            "prefix_cache": tmp_path,
            "stages": 2,
            "patience": 3.5,
            "max_model_len": 64,
        }
    )
    parser = argparse.ArgumentParser()
    add_settings(parser)
    monkeypatch.setenv("CUTSET_DTYPE", "int8")
    found = settings_from(parser.parse_args(setting_flags(settings, threads=2)))
    assert (found.threads, found.dtype, found.prefix_caching, found.stages) == (2, "float32", False, 2)
    assert (found.prefix_cache, found.patience, found.max_model_len) == (tmp_path, 3.5, 64)
