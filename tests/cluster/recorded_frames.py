"""One frame of every message that stages are sent and send, as a release puts it on a link; and what is in it.

`python -m cluster.recorded_frames` in tests/ writes the file of this release's version, once: later releases read the
files of all minor versions of their major one, and never change them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cutset.cluster import messages as m
from cutset.cluster.trace.spans import Span
from cutset.codec.payload import KeyRequest, Payload
from cutset.engine.stage_item import StageSetup, encode_setup
from cutset.link.frames import decode, encode
from cutset.link.peer import Hello, Refused, Welcome
from cutset.partition.hop import Hop

FOLDER = Path(__file__).parent / "recorded"
DIGEST = "0123456789abcdef" * 4
LIMIT = 1 << 20
VERSION = m.PROTOCOL.version


def examples() -> dict[str, Any]:
    """Every message with something in every field, so that none is its default."""
    introduction = m.Introduction("worker", b"s" * 16, "tcp://b:7001", 1)
    card = m.Card(
        "Some CPU", 8, 4, 6 << 30, "cutset 0.1.0, stages, avx2", "cpu", 1, "arithmetic 1", ["portable", "avx2"],
        [0.25, 1.0], ["float32", "int8"], ["auto", "int8"],
    )  # fmt: skip
    peer = m.Peer("join://c", "tcp://a:7000", b"k" * 32, b"t" * 32)
    payload = Payload(
        kind="delta", source=1, edge="e", plan=3, epoch=2, sequence=8, base=7, key=5, dtype="<u2", shape=(20,),
        encoding="bits", wire="<u2", count=2, compression=("none", "none"), values="plain",
    )  # fmt: skip
    edge = m.EdgeReport("e", "delta", 100, 0.25, 400, 0.5, 0.125)
    report = m.Report(
        3, 2, 1, 9, "b", [Span("compute", 1, 9, 1.0, 2.0, 7)], m.HopReport(100, 1.0, 1.5, 2.0), [edge], [edge],
        [0.5, 0.25], [1.0, 0.5],
    )  # fmt: skip
    return {
        "hello": Hello("cluster", VERSION, "cutset 0.1.0", DIGEST, b"n" * 16, m.encode(introduction), False, b""),
        "welcome": Welcome("cluster", VERSION, "cutset 0.1.0", DIGEST, b"n" * 16, m.encode(card), b""),
        "refused": Refused("why", 3),
        "inventory": m.Inventory(DIGEST, b"{}", {"w": DIGEST}),
        "holds": m.Holds(DIGEST, ["w"]),
        "prepare": m.Prepare(
            plan=3, epoch=2, name="b", graph=DIGEST, description=b"{}", stages=b"{}", weights={"w": DIGEST}, next=peer,
            previous=b"p" * 32, in_flight=4, deltas=True, threshold=0.5, half=True, levels=2, bandwidth=1e6,
            profile=True, pace=Hop(1e6, 0.02), back=Hop(2e6, 0.01), inputs=b"i", direct=True, delta_scale=0.5,
            delta_factors={"v": 2.0},
        ),
        "need": m.Need(3, ["w"]),
        "weight": m.WeightPart(DIGEST, 4, 12),
        "prepared": m.Prepared(3, 12, 0.5),
        "connect": m.Connect(3),
        "ready": m.Ready(3),
        "tune": m.Tune(3, 1e6),
        "allow": m.Allow(0.5, True, 2, 0.25, {"v": 2.0}),
        "retire": m.Retire(3),
        "work": m.Work(3, 2, 1, 9, [payload], [3, 5], 1.5, b"h"),
        "more": m.More(),
        "report": report,
        "reports": m.Reports([report, m.Report(3, 2, 1, 10, "b")]),
        "lost": m.Lost(3, 1, 9, "why"),
        "failed": m.Failed(3, "b", "why"),
        "ping": m.Ping(5, 1.5),
        "pong": m.Pong(5, 1.5, 2.5),
        "beat": m.Beat(),
        "bye": m.Bye(),
        "body": m.Body(),
        "key?": KeyRequest(1, "e", 3, 2, 8),
    }  # fmt: skip


def setup() -> StageSetup:
    """What an engine tells its stages, with something in every field."""
    return StageSetup(64, 16, 3, "int8", (5, 7), 512, 8)


def frame(message: Any) -> bytes:
    """As it lies on a link."""
    arrays = [np.arange(n, dtype=np.uint8) for n in (3, 5)] if isinstance(message, m.Work | m.More) else []
    parts, _ = encode(m.encode(message), arrays, LIMIT)
    return b"".join(part if isinstance(part, bytes) else part.tobytes() for part in parts)


def header(data: bytes) -> bytes:
    """The message of a frame."""
    return decode(memoryview(data), 0, len(data), LIMIT).header


def fields(message: Any) -> list[Any]:
    """What is in a message, as JSON has it."""
    found: list[Any] = json.loads(msgspec.json.encode(message))
    return found


def main() -> None:
    """Writes the file of this release."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"cluster-{m.PROTOCOL.version}.{m.MINOR}.json"
    frames = {name: {"frame": frame(one).hex(), "fields": fields(one)} for name, one in examples().items()}
    content = {"frames": frames, "setup": {"bytes": encode_setup(setup()).hex(), "fields": fields(setup())}}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
