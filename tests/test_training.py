"""The bundled story model: its generator, its files, and a training run of a few seconds."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "src" / "cutset" / "bundled" / "story"

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from training import grammar
from training.stories import stories

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def told() -> list[str]:
    return list(islice(stories(1), 5000))


def test_same_seed_same_stories(told: list[str]) -> None:
    assert told[:50] == list(islice(stories(1), 50))
    assert told[:50] != list(islice(stories(2), 50))


def test_stories_differ(told: list[str]) -> None:
    assert len(set(told)) > 0.99 * len(told)
    sentences = {sentence for story in told for sentence in re.split(r"(?<=[.!?]) ", story)}
    assert len(sentences) > 20_000
    openings = [story.split()[0] for story in told]
    for word in ("Once", "One", "There", "The", "It", "In", "Mia"):
        assert word in openings


def test_stories_are_clean(told: list[str]) -> None:
    for story in told:
        assert story.isascii()
        assert not re.search(r"[\[\]{}<>|~@+]|  | [.,!?]|[.,!?]{2}|\n\n\n|\n ", story), story
        assert story[0].isupper() or story[0] == '"', story
        assert story[-1] in '.!?"', story
        for paragraph in story.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, story


def test_articles_and_capitals(told: list[str]) -> None:
    for story in told:
        assert not re.search(r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", story), story
        assert not re.search(r'[.!?] "?[a-z]|\." [a-z]|," [A-Z](?!\w+ (?:said|asked|cried))(?=\w+\.)', story), story


def test_questions_end_as_questions(told: list[str]) -> None:
    ask = re.compile(r'"((?:Who|Where|Which|Why|Can|May|Will|Shall|Are|Is) [^".!?]*[.,!])')
    for story in told:
        assert not ask.search(story), ask.search(story)


def test_pronouns_follow_the_hero(told: list[str]) -> None:
    for story in told:
        opening = re.match(r"Once upon a time, there was an? \w+ (girl|boy) named \w+\. (He|She) ", story)
        if opening:
            assert opening[2] == {"girl": "She", "boy": "He"}[opening[1]], story


@pytest.mark.parametrize("bad", ["[open", "close]", "{open", "<open", "a > b"])
def test_broken_templates_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="template"):
        grammar.parse(bad)


def layout_is_sound(directory: Path) -> None:
    """A checkpoint whose configuration, weights and tokenizer agree."""
    safetensors = pytest.importorskip("safetensors")
    tokenizers = pytest.importorskip("tokenizers")
    for name in FILES:
        assert (directory / name).is_file(), name
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    hidden, kv = config["hidden_size"], config["num_key_value_heads"] * config["head_dim"]
    inner, vocab, layers = config["intermediate_size"], config["vocab_size"], config["num_hidden_layers"]
    assert config["num_attention_heads"] * config["head_dim"] == hidden
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    expected = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        shapes = {
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [kv, hidden],
            "self_attn.v_proj": [kv, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "mlp.gate_proj": [inner, hidden],
            "mlp.up_proj": [inner, hidden],
            "mlp.down_proj": [hidden, inner],
            "input_layernorm": [hidden],
            "post_attention_layernorm": [hidden],
        }
        expected |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    with safetensors.safe_open(directory / "model.safetensors", framework="numpy") as weights:
        found = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        assert {name: piece.get_shape() for name, piece in found.items()} == expected
        assert {piece.get_dtype() for piece in found.values()} == {"F16"}
        assert weights.metadata()["format"] == "pt"
    sizes = [shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in expected.values()]
    assert sum(sizes) <= 1_400_000
    assert sum(path.stat().st_size for path in directory.iterdir()) < 3_000_000

    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == vocab
    special = json.loads((directory / "tokenizer_config.json").read_text())
    assert tokenizer.token_to_id(special["bos_token"]) == config["bos_token_id"]
    assert tokenizer.token_to_id(special["eos_token"]) == config["eos_token_id"]
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    text = 'One day, Mia said, "Hello!" \u00e9\u4f60\U0001f600'
    ids = tokenizer.encode(text).ids
    assert ids[0] == config["bos_token_id"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids[1:]


def test_bundled_model() -> None:
    layout_is_sound(BUNDLED)


def test_a_directory_that_is_no_model_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from training import train

    (tmp_path / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(train, "tell_many", lambda *_: pytest.fail("it began"))
    for out in (tmp_path, tmp_path / "thesis.txt"):
        monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(out)])
        with pytest.raises(SystemExit, match="is no model of an earlier run"):
            train.main()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_tiny_training_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "model"
    command = [sys.executable, str(ROOT / "training" / "train.py"), "--out", str(out), "--threads", "1"]
    done = subprocess.run(
        [*command, "--steps", "3", "--stories", "2000", "--tokens", "600", "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out loss" in done.stdout
    layout_is_sound(out)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
