"""`cutset stream run` of a detector: lines, pictures, videos, events, as a user gets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image

from cutset.cli import main
from cutset.cli.stream_detections import camera_names, own_limits
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import ConfigError
from cutset.video import zoo
from cutset.video.detection.lines import LineFile
from cutset.video.sources.libav import libav
from video.detection.spots import NAMES, Spots, box_of, picture

SIZE = (64, 96)
PATH = [{"red": (4 * i, 10), "blue": (70, 40)} for i in range(12)]  # a red spot goes to the right


@pytest.fixture(scope="module")
def workers() -> Any:
    with LocalWorkers(1) as local:
        yield local


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of PATH, the sixth one without a spot."""
    found: Path = tmp_path_factory.mktemp("pictures")
    for i, spots in enumerate(PATH):
        pixels = picture(SIZE, {} if i == 5 else spots, seed=i)
        Image.fromarray(pixels[0].transpose(1, 2, 0)).save(found / f"{i}.png")
    (found / "labels").write_text("\n".join(NAMES))
    return found


@pytest.fixture
def play(workers: LocalWorkers, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with the detector of spots."""
    monkeypatch.setenv("CUTSET_STREAM_SCHEDULER", "even")

    def build(name: str, **more: Any) -> Any:
        return Spots(sizes[-1]).eval()

    sizes = [SIZE]
    monkeypatch.setattr(zoo, "build", build)

    def run(*flags: str, source: Path = folder, size: tuple[int, int] = SIZE) -> int:
        sizes.append(size)
        addresses = ",".join(address for address, _ in workers.addresses.values())
        labels = ["--labels", str(folder / "labels")] if "--labels" not in flags else []
        return main(["stream", "run", "spots", "--source", str(source), "--workers", addresses, *labels, *flags])

    return run


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_have_the_boxes_of_every_picture(
    play: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    before = time.time()
    assert play("--detections", str(out), "--camera", "gate", "--json", str(tmp_path / "r.json")) == 0
    lines = read(out)
    assert [line["picture"] for line in lines] == list(range(len(PATH)))
    for i, (line, spots) in enumerate(zip(lines, PATH, strict=True)):
        assert line["camera"] == "gate"
        assert line["size"] == [96, 64]
        assert before - 1 <= line["captured"] <= time.time() + 1
        assert line["latency"] >= 0
        found = {one["label"]: one for one in line["detections"]}
        assert set(found) == (set() if i == 5 else set(spots))
        for name, one in found.items():
            assert np.allclose(one["box"], box_of(spots[name]), atol=0.3)
            assert one["score"] == pytest.approx(0.9, abs=0.01)
    shown = capsys.readouterr().out.splitlines()
    assert "red 0.90" in shown[0]
    assert "nothing" in shown[5]
    assert [one["detections"] for one in json.loads((tmp_path / "r.json").read_text())["pictures"]][4:6] == [2, 0]
    assert play("--detections", str(out), "--only", "blue", "--min-score", "0.95", "--limit", "1") == 0
    assert read(out)[:-1] == lines, "what was there stays"
    assert read(out)[-1]["detections"] == []
    assert play("--detections", "-", "--only", "blue", "--limit", "1") == 0


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_boxes_are_in_pixels_of_the_source(play: Callable[..., int], tmp_path: Path, fit: str) -> None:
    source = tmp_path / "wide"
    source.mkdir()
    pixels = picture((128, 288), {}, seed=1)
    pixels[0, :, 30:62, 90:138] = np.array([255, 0, 0])[:, None, None]  # 48 x 32 of red
    for i in range(2):
        Image.fromarray(pixels[0].transpose(1, 2, 0)).save(source / f"{i}.png")
    out, drawn = tmp_path / "out.jsonl", tmp_path / "drawn"
    more = ["--detections", str(out), "--annotate", str(drawn), "--size", "64x96", "--fit", fit]
    assert play(*more, source=source) == 0
    [box] = [one["box"] for one in read(out)[1]["detections"]]
    middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    assert np.allclose(middle, [114, 46], atol=2), "the middle of the red"
    assert read(out)[1]["size"] == [288, 128]
    sides = [box[2] - box[0], box[3] - box[1]]
    assert np.allclose(sides, [48, 48] if fit == "letterbox" else [48, 32], atol=1), "16 pixels of the network's"
    with Image.open(sorted(drawn.iterdir())[1]) as shown:
        assert shown.size == ((288, 128) if fit == "letterbox" else (96, 64)), (
            "the source's own pixels, if they are there"
        )


def test_pictures_are_drawn_into(play: Callable[..., int], tmp_path: Path, folder: Path) -> None:
    assert play("--annotate", str(tmp_path / "drawn"), "--annotate-as", "png", "--camera", "front door/1") == 0
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == [f"front-door-1-{i:06}.png" for i in range(len(PATH))]
    for i, file in enumerate(files):
        with Image.open(file) as drawn, Image.open(folder / f"{i}.png") as plain:
            assert drawn.size == (96, 64)
            other = np.abs(np.asarray(drawn).astype(int) - np.asarray(plain)).max(axis=2) > 60
        if i == 5:
            assert not other.any(), "nothing was found, so nothing is drawn"
        else:
            left, top, right, bottom = (int(side) for side in box_of(PATH[i]["blue"]))
            assert other[bottom - 1, left:right].mean() > 0.8, "the lower side of the box"
            assert not other[top + 3 : bottom - 3, left + 3 : right - 3].any(), "what is in it can be seen"


def test_a_video_is_drawn_into(play: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert play("--annotate", str(out)) == 0
    av = libav()
    with av.open(str(out)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert len(frames) == len(PATH)
    assert [round(seconds * 25) for seconds, _ in frames] == list(range(len(PATH)))
    for i, (_, frame) in enumerate(frames):
        assert frame.shape == (64, 96, 3)
        if i != 5:
            x, y = PATH[i]["blue"]
            assert frame[y + 8, x + 8, 2] > 200, "the spot itself"


def test_events_in_zones(play: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zones = tmp_path / "zones.yaml"
    zones.write_text(
        "zones:\n"
        "  middle:\n    polygon: [[24, 0], [40, 0], [40, 64], [24, 64]]\n    labels: red\n    stays: 0.1\n"
        "  all:\n    polygon: [[0, 0], [1, 0], [1, 1], [0, 1]]\n    labels: [blue]\n"
    )
    events = tmp_path / "events.jsonl"
    assert play("--zones", str(zones), "--events", str(events), "--annotate", str(tmp_path / "drawn")) == 0
    found = [(one["event"], one["zone"], one["label"], one["picture"]) for one in read(events)]
    # The foot of the red spot is at 4 i + 8: in the zone from picture 4 to 7.
    assert found == [
        ("enters", "all", "blue", 0),
        ("enters", "middle", "red", 4),
        ("stays", "middle", "red", 7),
        ("leaves", "middle", "red", 8),
    ]
    assert read(events)[-1]["seconds"] == pytest.approx(4 / 25, abs=0.01)
    assert play("--zones", str(zones), "--quiet") == 0
    assert "red 1 leaves middle" in capsys.readouterr().err.replace("red 2", "red 1")


def test_events_over_mqtt(play: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paho.mqtt.client")
    from video.zones.broker import BROKER, Broker, Subscriber

    if BROKER is None:
        pytest.skip("Debian's mosquitto is not installed")
    monkeypatch.setenv("CUTSET_MQTT_PASSWORD", "secret")
    zones = tmp_path / "zones.toml"
    zones.write_text("[zones.middle]\npolygon = [[24, 0], [40, 0], [40, 64], [24, 64]]\n")
    broker = Broker(tmp_path)
    try:
        listener = Subscriber(broker.port, "house/#")
        try:
            where = f"mqtt://me@127.0.0.1:{broker.port}/house/events"
            assert play("--zones", str(zones), "--mqtt", where, "--camera", "gate", "--quiet") == 0
            heard = [listener.next() for _ in range(4)]
        finally:
            listener.close()
    finally:
        broker.stop()
    assert [topic for topic, _ in heard] == [f"house/events{end}" for end in ("/available", "", "", "/available")]
    assert [(one["event"], one["camera"], one["picture"]) for _, one in heard[1:3]] == [
        ("enters", "gate", 4),
        ("leaves", "gate", 8),
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--detector", "none", "--detections", "x.jsonl"], "--detections needs a detector"),
        (["--detector", "ssd"], "no outputs of an SSD head"),
        (["--detector", "nets"], "invalid choice"),
        (["--labels", "none.txt"], "none.txt"),
        (["--only", "rad"], "did you mean 'red'"),
        (["--min-score", "2"], "from 0 to 1"),
        (["--annotate", "out.avi"], "neither a video"),
        (["--annotate", "gone/out.mp4"], "can't be written"),
        (["--detections", "gone/out.jsonl"], "can't be written"),
        (["--detections", "x.jsonl", "--events", "x.jsonl", "--zones", "z"], "name the same file"),
        (["--events", "x.jsonl"], "needs zones"),
        (["--mqtt", "mqtt://localhost/a"], "needs zones"),
        (["--zones", "none.yaml"], "none.yaml"),
        (["--mqtt-ca", "x"], "--mqtt-ca is for --mqtt"),
        (["--camera", "a", "--camera", "b"], "2 cameras for 1 sources"),
        (["--fit", "letterbox"], "--size 640x640"),
        (["--anchors", "none.npy"], "none.npy"),
    ],
)
def test_what_is_refused(
    play: Callable[..., int],
    flags: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = play(*flags)
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    assert code == 2
    assert says in capsys.readouterr().err


def test_cameras_whose_names_no_file_can_have(play: Callable[..., int], tmp_path: Path, folder: Path) -> None:
    for names, files in ((("вход", "выход"), ("camera-0", "camera-1")), (("a b", "a/b"), ("a-b-0", "a-b-1"))):
        drawn = tmp_path / files[0]
        both = ["--source", str(folder), "--camera", names[0], "--camera", names[1]]
        assert play(*both, "--annotate", str(drawn), "--limit", "1", "--quiet") == 0
        assert sorted(path.name for path in drawn.iterdir()) == [f"{name}-000000.jpg" for name in files]


def test_names_of_cameras() -> None:
    assert camera_names(["a.mp4", "b.mp4", "a.mp4", "a.mp4"], None) == ["a.mp4", "b.mp4", "a.mp4#2", "a.mp4#3"]
    assert camera_names(["x", "y"], ["door", "yard"]) == ["door", "yard"]
    for wrong in (["door", "door"], ["door", ""], ["a\nb", "c"]):
        with pytest.raises(ConfigError):
            camera_names(["x", "y"], wrong)
    own = ["door,rate=2", "yard,deadline=0.5,rate=4", "roof"]
    assert camera_names(["x", "y", "z"], own) == ["door", "yard", "roof"]
    assert own_limits(own) == ((2.0, 4.0, None), (None, 0.5, None))
    for text in ("a,rate=0", "a,rate=x", "a,speed=3", "a,", "a,deadline=-1", "a,rate=nan", "a,rate=inf"):
        with pytest.raises(ConfigError, match="--camera takes"):
            own_limits([text])


WRITES = """
import os, sys
from pathlib import Path
from cutset.video.detection.lines import LineFile
file = LineFile(Path(sys.argv[1]))
for i in range(10**9):
    file.write({"picture": i, "detections": [{"label": "x" * 50}] * 20})
    if i == 100:
        print("on", flush=True)
"""


def test_lines_can_be_read_after_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITES, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    whole = out.read_bytes()
    lines = whole[: whole.rindex(b"\n")].split(b"\n")
    assert [json.loads(line)["picture"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 100
    with out.open("ab") as file:
        file.write(b'{"cut')
    with LineFile(out) as again:
        again.write({"a": 1})
        again.write({"b": "ü"})
    assert out.read_bytes().endswith('{"cut\n{"a": 1}\n{"b": "ü"}\n'.encode())


def test_a_pipe_gets_lines_at_once_and_a_full_disk_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with LineFile(path) as lines:
        lines.write({"a": 1})
        assert os.read(reader, 100) == b'{"a": 1}\n'
    os.close(reader)
    with LineFile(Path("/dev/full")) as full, pytest.raises(ConfigError, match="No space left"):
        full.write({"a": 1})
    with pytest.raises(ConfigError, match="can't be written"):
        LineFile(tmp_path)
