"""Batches of a server that is started again with another model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("openai")
pytest.importorskip("python_multipart")

from cutset.serve import app
from tests.serve.test_batches import Begin, begin, held_from, request

__all__ = ["begin"]  # a fixture


def test_a_batch_does_not_go_on_with_another_model(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": "Once", "max_tokens": 20, "temperature": 0.9}
    with held_from(150), begin(tmp_path / "kept") as server:
        name = server.batch([request(str(one), body=body | {"seed": one}) for one in range(200)]).id
        end = time.monotonic() + 60
        while server.client().batches.retrieve(name).request_counts.completed < 20 and time.monotonic() < end:
            time.sleep(0.02)
    real = app.answer_facts

    def other(service: Any) -> dict[str, Any]:
        return real(service) | {"weights": "tale, sha256 other"}

    monkeypatch.setattr(app, "answer_facts", other)
    with begin(tmp_path / "kept") as server:
        done = server.wait(name)
        assert done.status == "failed"
        [error] = done.errors.data
        assert error.code == "model_changed"
        assert error.message.startswith("the batch began with weights tale, sha256 ")
        assert "not tale, sha256 other" in error.message
        kept = server.lines(done.output_file_id)
        assert 20 <= len(kept) == done.request_counts.completed < 200
        assert server.wait(server.batch([request("a", body=body)]).id).status == "completed"
