"""Frigate's protocol: an answer belongs to its request, and what fails or is late has none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from benchmarks.frigate_client import FrigateClient
from cutset.errors import ConfigError, FrameError, LinkError
from cutset.video.detection import Detections
from cutset.video.frigate.frigate_server import MOST_WAITING, FrigateServer
from cutset.video.frigate.protocol import answer, envelope, pixels_of, read_request

SIZE = (8, 12)
NHWC = (1, 8, 12, 3)


def value_of(pixels: Any) -> Detections:
    """What the tests' network finds: a box as high as the picture's first value says, of the class of its second."""
    high, number = int(pixels[0, 0, 0, 0]), int(pixels[0, 1, 0, 0])
    box = np.array([[3, 2, 9, 2 + high]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([number], np.int64))


def asked(high: int, number: int) -> Any:
    tensor = np.zeros(NHWC, np.uint8)
    tensor[..., 0], tensor[..., 1] = high, number
    return tensor


def right(rows: Any, high: int, number: int) -> bool:
    first = [number, 0.5, 2 / 8, 3 / 12, (2 + high) / 8, 9 / 12]
    return rows.shape == (20, 6) and np.allclose(rows[0], first) and not rows[1:].any()


class Computing:
    """A stream in a thread: takes pictures, and answers each after `act` of its number."""

    def __init__(self, server: FrigateServer, act: Callable[[int], str] = lambda number: "") -> None:
        self._server, self._act = server, act
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for picture in self._server.pictures:
            failure = self._act(picture.index)
            if failure:
                self._server.failed(picture.index, failure)
            else:
                self._server.found(picture.index, value_of(picture.pixels))

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[FrigateServer, Computing]]]:
    made: list[tuple[FrigateServer, Computing]] = []

    def one(act: Callable[[int], str] = lambda number: "", **more: Any) -> tuple[FrigateServer, Computing]:
        server = FrigateServer(f"ipc://{tmp_path}/{len(made)}", SIZE, **more)
        made.append((server, Computing(server, act)))
        server.ready()
        return made[-1]

    yield one
    for server, computing in made:
        server.close()
        computing.join()


def held(go_on: threading.Event) -> Callable[[int], str]:
    """The first picture takes until `go_on` is set."""

    def act(number: int) -> str:
        if not number:
            go_on.wait(5)
        return ""

    return act


def test_answers_are_those_of_their_requests(make: Callable[..., Any]) -> None:
    server, _ = make()
    clients = [FrigateClient(server.address) for _ in range(3)]
    assert all(client.ready for client in clients)

    def use(client: FrigateClient, number: int) -> None:
        for i in range(30):
            wrong.extend([i] if not right(client.detect(asked(1 + i % 5, number)), 1 + i % 5, number) else [])

    wrong: list[int] = []
    threads = [threading.Thread(target=use, args=(client, i)) for i, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (server.counts["requests"], server.counts["answered"]) == (90, 90)
    for client in clients:
        client.close()


def test_all_layouts_of_a_tensor_that_the_plugin_sends() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE), np.uint8)
    for tensor in (pixels, pixels[0], pixels.transpose(0, 2, 3, 1), pixels[0].transpose(1, 2, 0)):
        header = read_request(b'{"shape": %s, "dtype": "uint8"}' % str(list(tensor.shape)).encode())
        found = pixels_of(header, tensor.tobytes(), SIZE)
        assert np.array_equal(found, pixels)
        assert found.flags.c_contiguous
        assert found.flags.owndata


def test_an_answer_has_the_best_twenty_in_shares_of_the_picture() -> None:
    boxes = np.array([[-5, 1, 6, 20]] * 30, np.float32)
    scores = np.arange(30, dtype=np.float32) / 100
    header, data = answer(Detections(boxes, scores, np.arange(30)), SIZE)
    rows = np.frombuffer(data, np.float32).reshape(20, 6)
    assert header == b'{"shape": [20, 6], "dtype": "float32"}'
    assert rows[:, 0].tolist() == list(range(29, 9, -1))
    assert np.allclose(rows[0], [29, 0.29, 1 / 8, 0, 1, 6 / 12])
    assert np.frombuffer(answer(Detections.none(), SIZE)[1], np.float32).tolist() == [0] * 120, "an empty scene"


def test_what_fails_or_is_late_gets_no_answer_and_is_counted(make: Callable[..., Any]) -> None:
    late = threading.Event()

    def act(number: int) -> str:
        if number == 2:
            late.wait(0.3)
        return "lost" if number == 1 else ""

    server, _ = make(act)
    client = FrigateClient(server.address)
    assert right(client.detect(asked(1, 0)), 1, 0)
    for _ in range(2):
        assert not client.detect(asked(2, 0)).any()
    late.set()
    assert right(client.detect(asked(3, 1)), 3, 1), "and not the late one's answer"
    client.close()
    assert client.late == 2
    assert {key: server.counts[key] for key in ("requests", "answered", "lost", "late")} == {
        "requests": 4,
        "answered": 2,
        "lost": 1,
        "late": 1,
    }
    assert server.line() == "4 requests, 2 answered, 1 late, 1 lost, 3 questions for the model"


def test_a_client_that_asks_anew_on_its_socket_gets_the_new_answer_alone(make: Callable[..., Any]) -> None:
    go_on = threading.Event()
    server, _ = make(held(go_on), deadline=5.0)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, 3000
        dealer.connect(server.address)
        header = b'{"shape": [1, 8, 12, 3], "dtype": "uint8"}'
        for high in (1, 2):
            dealer.send_multipart([b"", header, asked(high, 0).tobytes()])
        end = time.monotonic() + 5
        while server.counts["requests"] < 2 and time.monotonic() < end:
            time.sleep(0.01)
        go_on.set()
        frames = dealer.recv_multipart()
        assert right(np.frombuffer(frames[2], np.float32).reshape(20, 6), 2, 0)
        dealer.rcvtimeo = 100
        with pytest.raises(zmq.Again):
            dealer.recv_multipart()
    assert (server.counts["answered"], server.counts["late"]) == (1, 1)


def test_more_than_can_wait_drops_the_oldest(make: Callable[..., Any]) -> None:
    go_on = threading.Event()
    server, _ = make(held(go_on), deadline=5.0)
    count = MOST_WAITING + 4
    with zmq.Context() as context:
        sockets = [context.socket(zmq.REQ) for _ in range(count)]
        for i, sock in enumerate(sockets):
            sock.linger, sock.rcvtimeo = 0, 200
            sock.connect(server.address)
            sock.send_multipart([b'{"shape": [1, 8, 12, 3], "dtype": "uint8"}', asked(1, i).tobytes()])
            end = time.monotonic() + 5
            while server.counts["requests"] <= i and time.monotonic() < end:
                time.sleep(0.002)
        go_on.set()
        heard = []
        for i, sock in enumerate(sockets):
            try:
                frames = sock.recv_multipart()
            except zmq.Again:
                continue
            assert right(np.frombuffer(frames[1], np.float32).reshape(20, 6), 1, i)
            heard.append(i)
        for sock in sockets:
            sock.close()
    assert heard == [0, *range(count - MOST_WAITING, count)], "the one that runs, and the newest"
    assert server.counts["crowded out"] == count - MOST_WAITING - 1


MALFORMED = [
    (b"",),
    (b"{",),
    (b"[]", b"x"),
    (b"{}", b"x"),
    (b'{"shape": [1, 8, 12, 3]}', bytes(288)),
    (b'{"shape": [1, 8, 12, 3], "dtype": "float32"}', bytes(4 * 288)[:288]),
    (b'{"shape": [1, 8, 12, 3], "dtype": "uint8"}', bytes(287)),
    (b'{"shape": [1, 8, 12, 3], "dtype": "uint8"}',),
    (b'{"shape": [1, 12, 8, 3], "dtype": "uint8"}', bytes(288)),
    (b'{"shape": [288], "dtype": "uint8"}', bytes(288)),
    (b'{"shape": [0], "dtype": "uint8"}', b""),
    (b'{"shape": [-1, -288], "dtype": "uint8"}', bytes(288)),
    (b'{"shape": [1e3], "dtype": "uint8"}', b"x"),
    (b'{"shape": [99999999999, 9], "dtype": "uint8"}', b"x"),
    (b'{"shape": "x", "dtype": "uint8"}', b"x"),
    (b'{"shape": [1, 8, 12, 3], "dtype": "uint8"}', bytes(288), b"more"),
    (b"\xff\xfe", b"x"),
    (b" " * 5000, b"x"),
    (b'{"shape": [1, 640, 640, 3], "dtype": "uint8"}', bytes(3 * 640 * 640)),
    (b'{"shape": [1, 640, 640, 3], "dtype": "float32"}', bytes(4 * 3 * 640 * 640)),
]


def test_malformed_requests_get_no_answer_and_do_no_harm(make: Callable[..., Any]) -> None:
    said: list[str] = []
    server, _ = make(log=said.append)
    for header, *more in MALFORMED:
        with pytest.raises(FrameError):
            pixels_of(read_request(header), more[0] if len(more) == 1 else b"", SIZE)
    with zmq.Context() as context:
        for parts in MALFORMED:
            with context.socket(zmq.REQ) as sock:
                sock.linger = 500
                sock.connect(server.address)
                sock.send_multipart(list(parts))
        with context.socket(zmq.DEALER) as sock:  # no envelope
            sock.linger = 500
            sock.connect(server.address)
            sock.send_multipart([b"x"])
    client = FrigateClient(server.address)
    end = time.monotonic() + 5
    while server.counts["malformed"] < len(MALFORMED) + 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert server.counts["malformed"] == len(MALFORMED) + 1
    assert server.counts["answered"] == 0
    assert right(client.detect(asked(2, 7)), 2, 7)
    client.close()
    assert said
    assert all(len(line) < 400 for line in said)
    assert any("a tensor [1, 640, 640, 3]; this network takes [1, 8, 12, 3]" in line for line in said)
    with pytest.raises(FrameError):
        envelope([b"a", b"b", b"c"])


def test_questions_for_the_model(make: Callable[..., Any], tmp_path: Path) -> None:
    said: list[str] = []
    server, _ = make(model="yolo.onnx", log=said.append)
    client, other = FrigateClient(server.address), FrigateClient(server.address, "other.onnx")
    assert client.ask() == {"model_available": True, "model_loaded": True}
    assert other.ask() == {"model_available": True, "model_loaded": False}
    assert not other.ready
    other.send({"model_data": True, "model_name": "../../evil.onnx"}, b"bytes")
    assert other.receive() == [b'{"model_saved":false,"model_loaded":false}']
    assert [path.name for path in tmp_path.iterdir()] == ["0"], "nothing is written"
    assert any("other.onnx" in line for line in said)
    client.close()
    other.close()


def test_who_asks_before_the_network_is_ready_waits(tmp_path: Path) -> None:
    with FrigateServer(f"ipc://{tmp_path}/s", SIZE) as server:
        found: list[FrigateClient] = []
        asking = threading.Thread(target=lambda: found.append(FrigateClient(server.address)))
        asking.start()
        end = time.monotonic() + 5
        while not server.counts["questions for the model"] and time.monotonic() < end:
            time.sleep(0.01)
        assert not found
        server.ready()
        asking.join(5)
        assert found[0].ready
        found[0].close()


def test_addresses(tmp_path: Path) -> None:
    said: list[str] = []
    with FrigateServer("tcp://127.0.0.1:0", SIZE, log=said.append) as server:
        assert not said
        with pytest.raises(LinkError, match="can't listen"):
            FrigateServer(server.address, SIZE)
    with FrigateServer("tcp://*:0", SIZE, log=said.append):
        assert "knows no keys" in said[0]
    (tmp_path / "file").write_text("")
    for wrong in ("shm://x", "x", f"ipc://{tmp_path}/file", "tcp://127.0.0.1:99999"):
        with pytest.raises((ConfigError, LinkError)):
            FrigateServer(wrong, SIZE)
    with FrigateServer(f"ipc://{tmp_path}/s", SIZE):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
