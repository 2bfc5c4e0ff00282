"""The messages of Frigate's ZMQ detector plugin.

As documented in https://github.com/blakeblackshear/frigate, frigate/detectors/plugins/zmq_ipc.py (commit 318457113b3d).
A client has a REQ socket and sends

    [{"shape": [1, 320, 320, 3], "dtype": "uint8", "model_type": "yologeneric"}, the tensor's bytes]

for which it expects, within 200 ms,

    [{"shape": [20, 6], "dtype": "float32"}, 480 bytes]

with rows of class, score, top, left, bottom and right in shares of the picture, and zeros below the last one. Before
that, and after each request that got no answer in time, it asks for its model: [{"model_request": true, "model_name":
"yolo.onnx"}], answered by [{"model_available": true, "model_loaded": true}]; a model that isn't available it would send
as [{"model_data": true, "model_name": …}, the file], answered by [{"model_saved": …, "model_loaded": …}].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.errors import FrameError, printable
from cutset.reading import MALFORMED
from cutset.video.detection.boxes import Detections

__all__ = ["LONGEST_HEADER", "ROWS", "FrigateRequest", "answer", "model_answer", "pixels_of", "read_request", "refusal"]

ROWS, COLUMNS = 20, 6
LONGEST_HEADER = 4096  # bytes
ANSWER = b'{"shape": [20, 6], "dtype": "float32"}'


class FrigateRequest(msgspec.Struct, frozen=True):
    """The header of a request: of a tensor's, where it has a shape, or of one about the model."""

    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]], msgspec.Meta(max_length=8)] | None = None
    dtype: Annotated[str, msgspec.Meta(max_length=20)] = ""
    model_type: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    model_request: bool = False
    model_data: bool = False
    model_name: Annotated[str, msgspec.Meta(max_length=1000)] = ""


_headers = msgspec.json.Decoder(FrigateRequest)


def read_request(header: bytes) -> FrigateRequest:
    """Raises FrameError for what isn't a header."""
    if len(header) > LONGEST_HEADER:
        raise FrameError(f"a header of {len(header)} bytes; the most is {LONGEST_HEADER}")
    try:
        found = _headers.decode(header)
    except MALFORMED as error:
        raise FrameError(f"a header that can't be read: {printable(str(error), lines=False)[:200]}") from None
    if found.shape is None and not (found.model_request or found.model_data):
        raise FrameError("a header without a shape")
    return found


def pixels_of(request: FrigateRequest, data: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture (1, 3, rows, columns) of a request, which has that size; a copy. Raises FrameError."""
    shape, expected = tuple(request.shape or ()), (1, *size, 3)
    if request.dtype != "uint8":
        raise FrameError(f"a tensor of {request.dtype[:20]!r}; set input_dtype to int in Frigate, which is uint8")
    if math.prod(shape) != len(data):
        raise FrameError(f"a tensor of {len(data)} bytes for a shape of {list(shape)}")
    if shape in (expected, expected[1:]):
        picture = np.frombuffer(data, np.uint8).reshape(expected).transpose(0, 3, 1, 2)
    elif shape in ((1, 3, *size), (3, *size)):
        picture = np.frombuffer(data, np.uint8).reshape(1, 3, *size)
    else:
        raise FrameError(f"a tensor {list(shape)}; this network takes {list(expected)} or {[1, 3, *size]}")
    return np.array(picture, order="C")


def answer(found: Detections, size: tuple[int, int]) -> list[bytes]:
    """The frames of an answer, for boxes in pixels of a picture of that size: the best 20."""
    rows = np.zeros((ROWS, COLUMNS), "<f4")
    best = found.chosen(np.argsort(-found.scores, kind="stable")[:ROWS])
    count = len(best)
    rows[:count, 0], rows[:count, 1] = best.classes, best.scores
    scale = np.array([size[0], size[1], size[0], size[1]], np.float32)
    rows[:count, 2:] = np.clip(best.boxes[:, [1, 0, 3, 2]] / scale, 0, 1)
    return [ANSWER, rows.tobytes()]


def model_answer(loaded: bool) -> list[bytes]:
    """To a question for a model."""
    return [msgspec.json.encode({"model_available": True, "model_loaded": loaded})]


def refusal() -> list[bytes]:
    """To a model that was sent: networks are named on the command line, and nobody else's are run."""
    return [msgspec.json.encode({"model_saved": False, "model_loaded": False})]


def envelope(frames: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The sender and the parts of a message that a ROUTER got from a REQ. Raises FrameError."""
    if len(frames) < 3 or frames[1] or len(frames) > 4:
        raise FrameError(f"a message of {len(frames)} parts, which no REQ socket sends")
    return frames[0], list(frames[2:])
