"""LoRA adapters at replicas."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from cutset.config import load_settings
from models.family_checkpoints import write_checkpoint
from models.test_adapter import write_adapter
from tests.serve.replica_servers import SlowReplicas, choices, replicated, stream

PROMPT = [5, 9, 3, 77, 12]


@pytest.mark.slow
def test_an_adapters_answer_goes_on_at_another_replica(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "base", "Llama", tokenizer=True)
    adapters = {name: str(tmp_path / name) for name in ("pirate", "poet")}
    for seed, where in enumerate(adapters.values()):
        write_adapter(Path(where), model, seed=seed)
    settings = load_settings({"threads": 1, "cache_mib": 8})
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "stream": True}
    launcher = SlowReplicas(str(tmp_path / "base"), settings, threads=1, adapters=adapters)
    with replicated(settings, model=str(tmp_path / "base"), launcher=launcher) as server:
        assert server.service.names == ("base", "pirate", "poet")
        for name in server.service.names:
            asked = body | {"model": name}
            whole = choices("/v1/completions", stream(server.url, "/v1/completions", asked))
            server.whole()
            begun = threading.Event()
            with server.slow(), ThreadPoolExecutor(1) as pool:
                running = pool.submit(stream, server.url, "/v1/completions", asked, begun)
                assert begun.wait(60)
                server.kill()
                server.go_on()
                assert choices("/v1/completions", running.result(120)) == whole
        assert server.replicas.resumed >= 3
