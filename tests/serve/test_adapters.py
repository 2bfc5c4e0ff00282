"""LoRA adapters are models to a server's clients."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("starlette")
openai = pytest.importorskip("openai")

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.errors import ConfigError
from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from models.family_checkpoints import write_checkpoint
from models.test_adapter import write_adapter

PROMPT = [5, 9, 3, 77, 12]


def test_a_client_chooses_an_adapter_by_name(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "base", "Llama", tokenizer=True)
    adapters = {name: tmp_path / name for name in ("pirate", "poet")}
    for seed, where in enumerate(adapters.values()):
        write_adapter(where, model, seed=seed)
    with LLM(tmp_path / "base", threads=1, adapters=adapters) as llm:
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
        wanted = [llm.generate([PROMPT], params, adapter=name)[0].outputs[0].text for name in (None, *adapters)]
        assert len(set(wanted)) == 3
    llm = AsyncLLM(tmp_path / "base", settings=load_settings({"threads": 1}), adapters=adapters)
    try:
        with pytest.raises(ConfigError, match="stands for two things"):
            Service(llm, names=["poet"])
        service = Service(llm, names=["base"], limits=RequestLimits())
        server = Server(build_app(service, Auth((), "127.0.0.1")), service)
        with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
            cards = {card.id: card for card in client.models.list()}
            assert list(cards) == ["base", "pirate", "poet"]
            assert cards["poet"].model_dump()["parent"] == "base"
            more = {"ignore_eos": True}
            for name, text in zip(("base", "pirate", "poet"), wanted, strict=True):
                answer = client.completions.create(
                    model=name, prompt=PROMPT, max_tokens=8, temperature=0, extra_body=more
                )
                assert (answer.model, answer.choices[0].text) == (name, text)
            with pytest.raises(openai.NotFoundError, match="this server has base, pirate, poet"):
                client.completions.create(model="painter", prompt=PROMPT)
            client.close()
    finally:
        llm.close()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_checkpoint(tmp_path / "base", "Llama", tokenizer=True)
    write_adapter(tmp_path / "a", model)
    command = ["generate", str(tmp_path / "base"), "--prompt", "t5 t9", "--max-tokens", "6", "--ignore-eos"]
    texts = []
    for more in ([], ["--adapter", str(tmp_path / "a")]):
        assert main([*command, *more]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
    assert main([*command, "--adapter", str(tmp_path / "nowhere")]) == 2
    assert "no adapter_config.json" in capsys.readouterr().err
    for wrong, why in ((["x"], "write NAME=DIR"), (["x=a", "x=b"], "stands there twice")):
        assert main(["serve", str(tmp_path / "base"), "--lora-modules", *wrong]) == 2
        assert why in capsys.readouterr().err
