"""What a model's generation_config.json says of sampling is what a request gets that doesn't say it itself."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutset import LLM, AsyncLLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.errors import ModelError
from cutset.models.generation_config import HARMLESS, NEUTRAL, OBEYED, generation_defaults
from cutset.models.registry import BUNDLED

PROMPT = "The dog said:"
Model = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    def make(said: Any = None, **fields: Any) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(BUNDLED["story"], folder)
        (folder / "generation_config.json").write_text(said if isinstance(said, str) else json.dumps(fields))
        return folder

    return make


def texts(folder: Path, params: SamplingParams | None = None, **settings: Any) -> list[str]:
    with LLM(folder, threads=1, **settings) as llm:
        return [llm.generate(PROMPT, params)[0].text for _ in range(6)]


def test_six_answers_of_six_are_the_same(model: Model) -> None:
    folder = model(top_k=1, temperature=0.01)
    assert len(set(texts(folder))) == 1
    assert len(set(texts(folder, SamplingParams(max_tokens=30)))) == 1
    assert set(texts(folder)) == set(texts(folder, SamplingParams(temperature=0)))
    assert len(set(texts(folder, SamplingParams(temperature=1.5, top_k=0)))) > 1  # what is given wins, also a default
    assert len(set(texts(folder, generation_config=False))) > 1
    assert len(set(texts(folder, SamplingParams(seed=5), generation_config=False))) == 1


def test_values_that_the_engine_gets(model: Model) -> None:
    said = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}
    more = {
        "max_new_tokens": 12,
        "min_new_tokens": 3,
        "stop_strings": ["X", "Y"],
        "presence_penalty": 1.5,
        "eos_token_id": 1,
    }
    with LLM(model(**said, **more), threads=1) as llm:
        expected = SamplingParams(**said, max_tokens=12, min_tokens=3, stop=["X", "Y"], presence_penalty=1.5)
        assert llm.params() == llm.params(SamplingParams()) == expected
        some = llm.params(SamplingParams(temperature=1.0, max_tokens=2, stop=[]))
        assert (some.temperature, some.max_tokens, some.stop, some.top_k) == (1.0, 2, (), 20)
        assert some.min_tokens == 2  # a default makes room for what was given
        assert llm.params(SamplingParams(min_tokens=14)).max_tokens == 14
        assert llm.generate(PROMPT)[0].usage.completion_tokens <= 12
        given = llm.generate([PROMPT] * 2, [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)])
        assert [one.usage.completion_tokens for one in given] == [1, 2]
        *_, last = llm.stream(PROMPT)
        assert last.usage is not None
        assert last.usage.completion_tokens <= 12


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [
        ({}, 1.0),
        ({"do_sample": False}, 0.0),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": None, "temperature": None, "top_k": None}, 1.0),
    ],
)
def test_whether_to_sample(model: Model, fields: dict[str, Any], temperature: float) -> None:
    with LLM(model(**fields), threads=1) as llm:
        assert llm.params().temperature == temperature
        assert llm.params(SamplingParams(temperature=0.3)).temperature == 0.3


def test_async(model: Model) -> None:
    async def answers() -> set[str]:
        async with AsyncLLM(model(top_k=1, max_new_tokens=5), threads=1) as llm:
            found = await asyncio.gather(*(llm.generate(PROMPT) for _ in range(4)))
            streamed = [delta.text async for delta in llm.stream(PROMPT)]
            assert {one.usage.completion_tokens for one in found} == {5}
            return {one.text for one in found} | {"".join(streamed)}

    assert len(asyncio.run(answers())) == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            '{"temperature": "hot"}',
            r"generation_config\.json: temperature='hot' can't be used.*--no-generation-config$",
        ),
        ('{"top_p": 0}', "top_p=0 can't be used"),
        ('{"top_k": 1.5}', "top_k=1.5"),
        ('{"max_new_tokens": 0}', "max_tokens=0"),
        ('{"do_sample": "yes"}', "do_sample must be true or false, not 'yes'"),
        ('{"stop_strings": [1]}', "stop="),
        ('{"min_new_tokens": 9, "max_new_tokens": 3}', "min_tokens=9"),
        ("[]", "JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_what_can_t_be_is_refused(model: Model, said: str, message: str) -> None:
    folder = model(said)
    with pytest.raises(ModelError, match=message) as caught:
        LLM(folder, threads=1)
    assert "\n" not in str(caught.value)
    if "[" not in said[:1] and said != "{":  # the end tokens in it are read in any case
        LLM(folder, threads=1, generation_config=False).close()


def test_what_isn_t_done_is_said(model: Model) -> None:
    folder = model(num_beams=4, no_repeat_ngram_size=3, chat_format="chatml", top_k=5, num_return_sequences=1)
    with pytest.warns(UserWarning, match="isn't done here: chat_format='chatml', no_repeat_ngram_size=3, num_beams=4"):
        LLM(folder, threads=1).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLM(folder, threads=1, generation_config=False).close()


def test_every_field_of_transformers_is_accounted_for(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert not OBEYED.keys() & NEUTRAL.keys()
    assert not HARMLESS & (OBEYED.keys() | NEUTRAL.keys())
    known = OBEYED.keys() | NEUTRAL.keys() | HARMLESS | {"do_sample", "max_length"}
    config = transformers.GenerationConfig()
    assert set(vars(config)) - known == set()
    defaults = getattr(config, "_get_default_generation_params", dict)()
    defaults.pop("max_length", None)
    (tmp_path / "generation_config.json").write_text(json.dumps(defaults))
    assert generation_defaults(tmp_path, 512).undone == {}  # a file that spells out what is so anyway
    for name in NEUTRAL:
        (tmp_path / "generation_config.json").write_text(json.dumps({name: 7}))
        assert generation_defaults(tmp_path, 512).undone == {name: 7}
    for length, undone in ((511, {"max_length": 511}), (512, {}), (4096, {})):
        (tmp_path / "generation_config.json").write_text(json.dumps({"max_length": length}))
        assert generation_defaults(tmp_path, 512).undone == undone


def test_cutset_config_shows_them(model: Model, capsys: Any, tmp_path: Path) -> None:
    folder = model(temperature=0.25, top_k=7)
    assert main(["config", "--model", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["temperature"] == ["0.25", "generation_config.json", f"({folder / 'generation_config.json'})"]
    assert rows["top_p"] == ["1.0", "default"]
    assert rows["generation_config"] == ["yes", "default"]
    told = json.loads((tmp_path / "out.json").read_text())["sampling"]
    assert told["top_k"]["value"] == 7
    assert told["top_k"]["source"].startswith("generation_config.json (")
    assert main(["config", "--model", str(folder), "--no-generation-config"]) == 0
    assert "0.25" not in capsys.readouterr().out
    assert main(["config"]) == 0
    assert "top_k" not in capsys.readouterr().out


def test_it_is_turned_off_by_flag_variable_and_file(tmp_path: Path) -> None:
    assert load_settings({}, environ={}, cwd=tmp_path).generation_config
    assert not load_settings({}, environ={"CUTSET_GENERATION_CONFIG": "off"}, cwd=tmp_path).generation_config
    (tmp_path / "cutset.toml").write_text("generation_config = false\n")
    assert not load_settings({}, environ={}, cwd=tmp_path).generation_config
    assert load_settings({"generation_config": True}, environ={}, cwd=tmp_path).generation_config


def test_commands_take_flags_then_the_model_then_their_own(model: Model) -> None:
    folder = model(temperature=5.0, max_new_tokens=9, repetition_penalty=1.0)

    def generate(*more: str) -> str:
        command = [sys.executable, "-m", "cutset", "generate", str(folder), "--prompt", PROMPT, "--threads", "1", *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with LLM("story", threads=1) as llm:
        greedy = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))[0].text
        more = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))[0].text
    assert generate("--seed", "1", "--ignore-eos").strip() != greedy.strip()
    assert generate("--temperature", "0", "--ignore-eos").strip() == greedy.strip()
    assert generate("--no-generation-config", "--max-tokens", "20", "--ignore-eos").strip() == more.strip()
    assert generate("--min-tokens", "20", "--temperature", "0", "--ignore-eos").strip() == more.strip()
