"""Workers that keep state which can't be sent again: items go by hand, losses are reported, and nothing is repeated."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.run.running import Running
from cutset.cluster.coordinator import reach as reaching
from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.plans import NoPlan
from cutset.cluster.coordinator.run_events import Events
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.item_result import ItemResult, StateLost
from cutset.cluster.messages import HopReport, Report, Work
from cutset.cluster.model import Model
from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array
from cutset.cluster.wire import ArrivedItem
from cutset.cluster.worker.inputs_ahead import InputsAhead, RestOfItem
from cutset.cluster.worker.listening import Turns
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.errors import ConfigError, CutsetError, FrameError, LinkError, RequestError
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.node import Node, Read, Value
from cutset.partition.plan import COORDINATOR, Plan, StagePlan

MOST = 4096


def model(state: int = 0, both: bool = False) -> Model:
    """Bytes → those with what came before in front, twice: each of the two nodes remembers the items that it saw. With
    `both` the second reads the first one's input, too."""
    values = [Value(name, (MOST,), "uint8", bounded=True) for name in ("x", "a", "b")]
    nodes = tuple(
        Node(made.name, "", "append", tuple(map(Read, reads)), (), (made,), False, 1, state)
        for reads, made in zip((("x",), ("a", "x") if both else ("a",)), values[1:], strict=True)
    )
    return Model(Graph((values[0],), ("b",), nodes, {}), {})


class Appending:
    """Gives all bytes that it has seen since its plan began."""

    def __init__(self, graph: Graph, nodes: Collection[int]) -> None:
        self.inputs, self.outputs = graph.boundary(nodes)
        self._nodes = [graph.nodes[i] for i in sorted(nodes)]
        self._seen = {node.name: b"" for node in self._nodes}
        self.hold: threading.Event | None = None

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        if self.hold is not None:
            assert self.hold.wait(20.0)
        found = {name: array.tobytes() for name, array in values.items()}
        for node in self._nodes:
            self._seen[node.name] += b"".join(found[name] for name in node.reads)
            found[node.name] = self._seen[node.name]
        return {name: np.frombuffer(found[name], np.uint8) for name in self.outputs}


class AppendingRuntime:
    software, device = "bytes", "here"
    hold: threading.Event | None = None  # what a stage waits for at each item

    def begin_thread(self) -> None:
        pass

    def stage(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> Appending:
        made = Appending(graph, nodes)
        made.hold = self.hold
        return made

    def decoder(self, encoding: str, value: Value, settings: bytes) -> Any:
        raise ConfigError("none")

    def open_weights(self, path: Path) -> WeightFile:
        raise AssertionError("no file was given")


class Run:
    """A coordinator over workers in threads."""

    def __init__(self, folder: Path, names: Sequence[str], memory: int = 0, **options: Any) -> None:
        self.folder, self.memory = folder, memory
        self.workers: dict[str, Running] = {}
        for name in names:
            self.start(name)
        self.model = model(options.pop("state", 0), options.pop("both", False))
        paces = options.pop("paces", None)
        self.inbox = Inbox(self.model.input)
        self.wanted = list(names)
        options = {"stateful": True, "deltas": False, "gather": 0.0, "patience": 2.0} | options
        addresses = {name: (f"ipc://{folder}/{name}", None) for name in names}
        self.coordinator = Coordinator(self.model, addresses, self.plan, [self.inbox], Options(**options), paces=paces)

    def start(self, name: str) -> None:
        self.workers[name] = Running(
            f"ipc://{self.folder}/{name}", WorkerSettings(AppendingRuntime(), memory=self.memory)
        )

    def plan(self, alive: Sequence[str], why: str) -> Plan:
        missing = [name for name in self.wanted if name not in alive]
        if missing:
            raise NoPlan(f"{missing[0]} isn't there")
        shares = [(0,), (1,)] if len(self.wanted) > 1 else [(0, 1)]
        return Plan(self.model.digest, tuple(map(StagePlan, self.wanted[:2], shares)))

    def put(self, text: str, lost: int = 0) -> None:
        self.inbox.put(np.frombuffer(text.encode(), np.uint8), lost)

    def take(self, seconds: float = 10.0) -> Any:
        came = self.coordinator.results.get(timeout=seconds)
        if isinstance(came, ItemResult):
            self.coordinator.took()
            return came.output.tobytes().decode()
        return came

    def begun(self) -> None:
        until = time.monotonic() + 10
        while self.coordinator.plan is None:
            assert time.monotonic() < until, "no plan"
            time.sleep(0.01)

    def close(self) -> None:
        self.coordinator.close()
        for worker in self.workers.values():
            worker.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*names: str, **how: Any) -> Run:
        runs.append(Run(tmp_path, names, **how))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def test_items_of_any_size_pass_and_leave_their_state(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1")
    for text in ("a", "bc", ""):
        run.put(text)
    # The first keeps a, abc, abc; the second all of these one after another.
    assert [run.take() for _ in range(3)] == ["a", "aabc", "aabcabc"]
    with pytest.raises(RequestError, match="at most uint8"):
        run.inbox.put(np.zeros(MOST + 1, np.uint8))
    with pytest.raises(RequestError, match="float32"):
        run.inbox.put(np.zeros(3, np.float32))


@pytest.mark.parametrize("late", [None, "input", "rest"])
def test_an_input_that_goes_straight_to_every_stage_meets_the_rest_of_its_item(
    begin: Callable[..., Run], late: str | None
) -> None:
    """Whichever comes first."""
    way = {"input": (COORDINATOR, "w1"), "rest": ("w0", "w1")}
    run = begin("w0", "w1", both=True, direct=True, paces={way[late]: Hop(latency=0.1)} if late else None)
    for text in ("a", "bc", ""):
        run.put(text)
    # The second has a a, then abc bc, then abc and nothing.
    assert [run.take() for _ in range(3)] == ["aa", "aaabcbc", "aaabcbcabc"]
    session = run.workers["w1"].worker._session
    assert session is not None
    [planned] = session._plans.values()
    assert planned.run is not None
    assert planned.run.takes == ("a",)
    assert planned.run.ahead is not None
    assert (planned.run.ahead._values, planned.run.ahead._rests) == ({}, {})


def test_inputs_and_rests_that_wait_are_bounded_and_come_once() -> None:
    def arrived(number: int) -> ArrivedItem:
        return ArrivedItem(Work(1, 0, 0, number, [], [3], 0.0), [np.zeros(3, np.uint8)], HopReport(3, 0.0, 0.0, 0.0))

    def rest(number: int) -> RestOfItem:
        return RestOfItem(arrived(number), lambda wanted: None)

    ahead = InputsAhead([Value("x", (4,), "uint8", bounded=True)], 1, 1)
    for number in range(10):
        assert ahead.came(arrived(number))[1] is None
        assert not ahead.completes(rest(100 + number))
    assert ahead.completes(rest(3))
    for wrong in (lambda: ahead.came(arrived(3)), lambda: ahead.completes(rest(103))):
        with pytest.raises(FrameError, match="twice"):
            wrong()
    for wrong in (lambda: ahead.came(arrived(10)), lambda: ahead.completes(rest(110))):
        with pytest.raises(FrameError, match="more than agreed"):
            wrong()
    assert ahead.take(arrived(4).work)["x"].size == ahead.take(arrived(3).work)["x"].size == 3
    assert (ahead.came(arrived(103))[1] or rest(0)).arrival.work.number == 103
    with pytest.raises(FrameError, match="came twice"):
        ahead.take(arrived(3).work)
    with pytest.raises(FrameError, match="the most is 4"):
        ahead.came(ArrivedItem(Work(1, 0, 0, 50, [], [5], 0.0), [np.zeros(5, np.uint8)], HopReport(5, 0.0, 0.0, 0.0)))


def test_whoever_brings_an_item_moves_it_unless_somebody_is_at_it_or_the_plan_may_change() -> None:
    done: list[str] = []
    ours = threading.get_ident()

    def note(what: str) -> Callable[[], None]:
        return lambda: done.append(f"{what} {'here' if threading.get_ident() == ours else 'elsewhere'}")

    def fail() -> None:
        raise LinkError("it failed")

    events = Events(
        lambda event: None, lambda report: done.append(f"report {report.number}"), note("moved"), at_once=True
    )
    events.put(note("small"), small=True)
    assert done == ["small here", "moved here"]
    done.clear()
    report = Report(1, 0, 0, 7, "w0")
    events.put(report)
    events.put(note("large"))
    assert done == [], "for the coordinator's thread"
    events.put(note("small"), small=True)
    assert done == ["moved here"], "what came before it is taken first"
    done.clear()
    assert events.take_all()
    assert done == ["large here", "small here", "report 7"]
    done.clear()
    with events.turn:
        other = threading.Thread(target=events.put, args=(note("small"),), kwargs={"small": True})
        other.start()
        other.join()
        assert done == [], "another one is at it, and takes it"
        assert not events.take_all(), "it changes no plan"
    assert done == ["small here"]
    events.put(fail, small=True)
    assert isinstance(events.failure, LinkError)
    later = Events(lambda event: None, lambda report: done.append("report"), note("moved"), at_once=False)
    done.clear()
    later.put(note("small"), small=True)
    assert done == []
    later.report([report])
    assert done == ["report"], "without state a report is taken at once"


def test_one_thread_listens_and_another_one_only_while_that_computes_for_long() -> None:
    computing = 0.0
    turns, other = Turns(lambda: computing), threading.Event()
    assert turns.take(lambda: False)
    assert turns.take(lambda: False), "it keeps its turn"

    def listen() -> None:
        if turns.take(other.is_set):
            took.append(threading.get_ident())
            other.wait(20)
            turns.give()

    took: list[int] = []
    threads = [threading.Thread(target=listen)]
    threads[0].start()
    time.sleep(0.15)
    assert not took
    turns.leave()
    until = time.monotonic() + 10
    while not took:
        assert time.monotonic() < until
        time.sleep(0.01)
    turns.leave()  # it has its turn no more, so this changes nothing
    assert turns._away == 0.0
    other.set()
    threads[0].join()
    assert turns.take(lambda: False), "it was given back"
    computing = time.monotonic() - 1  # in native code, which says so
    other.clear()
    threads = [threading.Thread(target=listen)]
    threads[0].start()
    while len(took) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    other.set()
    threads[0].join()
    assert not turns.take(lambda: True), "whoever stops listens no more"


def test_what_was_on_its_way_is_lost_with_the_state_and_not_sent_again(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1")
    run.put("a")
    assert run.take() == "a"
    run.wanted = ["w0"]
    run.workers.pop("w1").close()
    lost = run.take()
    assert isinstance(lost, StateLost)
    assert (lost.count, "w1" in lost.why) == (1, True)
    run.put("of the old state", lost=0)
    run.put("b", lost=1)
    assert run.take() == "b", "the worker that stayed begins anew, and an item of the state before is dropped"
    with pytest.raises(queue.Empty):
        run.coordinator.results.get(timeout=0.2)


def test_another_plan_begins_with_nothing(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1")
    run.put("a")
    assert run.take() == "a"
    run.wanted = ["w0"]
    run.coordinator.propose(run.plan(["w0", "w1"], ""), "it is better")
    lost = run.take()
    assert isinstance(lost, StateLost)
    run.put("b", lost=1)
    assert run.take() == "b"


def test_without_a_plan_whoever_comes_is_waited_for(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1", patience=20.0)
    run.begun()
    run.workers.pop("w1").close()
    assert isinstance(run.take(), StateLost)
    run.put("b", lost=1)
    with pytest.raises(queue.Empty):
        run.coordinator.results.get(timeout=0.3)
    assert run.coordinator.plan is None
    run.start("w1")
    assert run.take(20.0) == "b"


def test_patience_ends_with_what_is_missing(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1", patience=0.3)
    run.begun()
    run.workers.pop("w1").close()
    assert isinstance(run.take(), StateLost)
    error = run.take()
    assert isinstance(error, LinkError)
    assert "w1 isn't there" in str(error)


def test_a_limited_worker_never_holds_two_plans(begin: Callable[..., Run]) -> None:
    """Its own state of both would be more than it may have: the old plan ends before the new one is made."""
    run = begin("w0", "w1", memory=1 << 20, state=300_000)
    run.put("a")
    assert run.take() == "a"
    run.wanted = ["w0"]
    run.coordinator.propose(run.plan(["w0", "w1"], ""), "it is better")
    assert isinstance(run.take(), StateLost)
    run.put("b", lost=1)
    assert run.take() == "b"


def test_a_worker_counts_state_with_its_memory(begin: Callable[..., Run]) -> None:
    run = begin("w0", "w1", memory=1 << 20, state=2_000_000, patience=0.5)
    until = time.monotonic() + 20
    while not isinstance(found := run.take(20.0), CutsetError):
        assert time.monotonic() < until
    assert "needs about 2 MiB" in str(found)


def test_a_worker_that_computes_goes_on_listening(begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    monkeypatch.setattr(AppendingRuntime, "hold", hold)
    run = begin("w0", "w1", beat=0.05)
    run.begun()
    for text in ("a", "b", "c"):
        run.put(text)
    trips = run.coordinator.remotes["w0"].trips
    before, until = trips.count, time.monotonic() + 10
    while trips.count < before + 3:  # answers to pings
        assert time.monotonic() < until, "it doesn't answer while it computes"
        time.sleep(0.01)
    assert run.coordinator.results.empty()
    hold.set()
    assert [run.take() for _ in range(3)] == ["a", "aab", "aababc"]


def test_cards_come_in_the_order_of_the_workers_whoever_answers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans go by it: the first worker gets the first nodes."""
    asked: list[str] = []

    class Answering:
        refused, joins, why = False, False, ""

        def __init__(self, name: str) -> None:
            self.name, self.card = name, name

        @property
        def up(self) -> bool:
            asked.append(self.name)
            return self.name != "first" or len(asked) > 4

        def close(self) -> None:
            pass

    monkeypatch.setattr(reaching, "dial_all", lambda workers, *_, **__: {name: Answering(name) for name in workers})
    assert list(reaching.reach({"first": ("", None), "second": ("", None)})) == ["first", "second"]
    assert asked.index("second") < len(asked) - 1
