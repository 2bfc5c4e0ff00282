"""What the tests of streaming share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from real_onnx import TEXT, YOLO

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums have one order, and the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def text_detector() -> Path:
    """PP-OCR's detector of text, an ONNX file."""
    return _there(TEXT)


@pytest.fixture(scope="session")
def yolo() -> Path:
    """A YOLOv8n for pictures of 320 x 320, an ONNX file; a detector of people's faces here."""
    return _there(YOLO)


def _there(file: Path) -> Path:
    if not file.is_file():
        pytest.skip(f"{file.name} is not in the cache: make onnx-models")
    return file
