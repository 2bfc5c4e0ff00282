"""Which decoder reads a network's outputs: the one that was asked for, or what their shapes and names say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cutset.config import did_you_mean
from cutset.errors import ConfigError
from cutset.models.files.npy import map_npy
from cutset.partition.graph import Graph
from cutset.video.detection.detr_head import DetrHead
from cutset.video.detection.labels import labels_of
from cutset.video.detection.output_decoder import HeadFacts, HeadLimits, OutputDecoder
from cutset.video.detection.ssd_head import SsdHead, boxes_and_scores
from cutset.video.detection.text_mask import TextMask
from cutset.video.detection.yolo_head import FEW_ROWS, YoloHead, box_counts

__all__ = ["KINDS", "choose_decoder", "facts_of", "read_anchors"]

KINDS: dict[str, Callable[[HeadFacts, HeadLimits], OutputDecoder]] = {
    "yolo": YoloHead,
    "ssd": SsdHead,
    "detr": DetrHead,
    "db": TextMask,
}
MOST_ANCHORS = 1_000_000
# What exporters of YOLO call a network's task, and that its first columns are the boxes of things.
TASKS = {"detect": True, "segment": True, "pose": True, "classify": False, "obb": False}


def facts_of(
    graph: Graph,
    metadata: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    anchors: NDArray[np.float32] | None = None,
) -> HeadFacts:
    """What is known of a network: its graph, what its file says of itself, and what the user does."""
    rows, columns = graph.inputs[0].shape[-2:]
    outputs = [(name, tuple(graph.values[name].shape)) for name in graph.outputs]
    return HeadFacts(outputs, (rows, columns), labels or labels_of(metadata or {}), anchors)


def choose_decoder(
    facts: HeadFacts, limits: HeadLimits, kind: str = "auto", metadata: Mapping[str, str] | None = None
) -> OutputDecoder | None:
    """The decoder of that kind; of `auto` None where the outputs look like no detector's, as those of a classifier.

    Raises ConfigError for an unknown kind, and where the outputs aren't what a kind that was named needs.
    """
    if kind == "auto":
        kind = _kind_of(facts, (metadata or {}).get("task", ""))
        if not kind:
            return None
    if kind not in KINDS:
        raise ConfigError(f"--detector: there is no {kind[:40]!r}{did_you_mean(kind, (*KINDS, 'auto', 'none'))}")
    return KINDS[kind](facts, limits)


def read_anchors(path: Path) -> NDArray[np.float32]:
    """Anchors (n, 4) of a .npy file: middle, width and height in shares of the picture. Raises ConfigError."""
    try:
        found = map_npy(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--anchors: {path} is no .npy file of numbers: {str(error)[:100]}") from None
    if found.ndim != 2 or found.shape[1] != 4 or found.dtype.kind != "f" or len(found) > MOST_ANCHORS:
        raise ConfigError(f"--anchors: {path} must hold floats (n, 4): middle, width and height")
    if not (found.size and (np.abs(found) < 1e6).all() and (found[:, 2:] > 0).all()):
        raise ConfigError(f"--anchors: {path} has anchors that are no boxes; sides are above 0")
    return found.astype(np.float32)


def _kind_of(facts: HeadFacts, task: str) -> str:
    """The kind of head that outputs look like, or ""."""
    if not TASKS.get(task, True):
        return ""
    pair = boxes_and_scores(facts)
    if pair is not None:
        name, _, _ = pair
        rows = next(shape[-2] for one, shape in facts.outputs if one == name)
        if facts.anchors is not None or rows > FEW_ROWS:
            return "ssd"
        return "ssd" if facts.find("score", "conf") and not facts.find("logit") else "detr"
    if facts.find("box") and facts.find("score", "conf") and facts.find("label", "class"):
        return "ssd"
    shapes = [shape for _, shape in facts.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][:2] == (1, 1) and min(shapes[0][2:]) >= 16:
        return "db"
    for shape in shapes:
        if len(shape) == 3 and shape[0] == 1 and min(shape[1:]) >= 5:
            places = set(shape[1:]) & box_counts(facts.picture)
            if places or task in TASKS or (shape[2] == 6 and shape[1] <= FEW_ROWS):
                return "yolo"
    return ""
