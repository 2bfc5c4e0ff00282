"""The classes of tokenizers that transformers 5.23 has, and what each of them brings of its own.

It picks a class by `tokenizer_class` and `model_type`. `LlamaTokenizer`, `GemmaTokenizer` and `Qwen2Tokenizer` take
vocabulary, merges, added tokens and post-processor from tokenizer.json, and bring their own normaliser, splitting and
decoder; under any other name tokenizer.json is used as it stands. (transformers has more such classes, for families
that Cutset doesn't run; and `GPT2Tokenizer`, which loses the digit splitting of models such as SmolLM. Those stay as
stored.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.errors import TokenizerError
from cutset.models.files.lfs import check_no_pointer_at
from cutset.models.text.tokenizer_files import MAX_JSON_BYTES, SENTENCEPIECE_FILES, check_file, from_rust

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "AS_STORED",
    "DEFAULT_TOKENS",
    "GEMMA",
    "LLAMA",
    "QWEN2",
    "QWEN2_WORDS",
    "assemble",
    "class_of",
    "from_vocab_and_merges",
]

AS_STORED, LLAMA, QWEN2 = "TokenizersBackend", "LlamaTokenizer", "Qwen2Tokenizer"
GEMMA = "GemmaTokenizer"
# The class that transformers registers for a model_type; llama has none.
_REGISTERED = {
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "gemma3_text": GEMMA,
    "glm": AS_STORED,
    "glm4": AS_STORED,
    "granite": AS_STORED,
    "granitemoehybrid": AS_STORED,
    "ministral": AS_STORED,
    "ministral3": AS_STORED,
    "mistral": AS_STORED,
    "mistral3": AS_STORED,
    "mixtral": AS_STORED,
    "olmo2": AS_STORED,
    "olmo3": AS_STORED,
    "phi3": AS_STORED,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2,
    "qwen3": QWEN2,
    "qwen3_moe": QWEN2,
}
DEFAULT_TOKENS = {
    AS_STORED: {},
    GEMMA: {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    LLAMA: {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    QWEN2: {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def class_of(config: Mapping[str, Any], model_config: Mapping[str, Any], *, byte_level: bool) -> str:
    """Which class transformers 5.23 gives the tokenizer: `LLAMA`, `GEMMA`, `QWEN2`, or `AS_STORED`."""
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if declared is not None and not isinstance(declared, str):
        raise TokenizerError(f"tokenizer_config.json: tokenizer_class must be a string, not {declared!r:.40}")
    declared = declared and declared.removesuffix("Fast")
    model_type = str(model_config.get("model_type"))
    registered = _REGISTERED.get(model_type)
    if declared == LLAMA and byte_level and model_type != "qwen2":
        return AS_STORED  # Llama 3 under Llama 2's name
    if declared and registered and declared != registered:
        # For qwen2 the directory's word is known to be often wrong, so the registered class wins.
        declared = registered if registered == AS_STORED or model_type == "qwen2" else declared
    kind = declared or registered
    return kind if kind in DRESSES else AS_STORED


def assemble(kind: str, stored: tokenizers.Tokenizer, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of tokenizer.json the way class `kind` runs it."""
    import tokenizers

    model: Any = stored.model
    if type(model).__name__ == "BPE":
        model.dropout = None
    if kind == AS_STORED:
        return stored
    model.continuing_subword_prefix = model.end_of_word_suffix = None
    model.unk_token = _unknown(config) if kind == GEMMA else None
    model.fuse_unk = model.byte_fallback = kind in (LLAMA, GEMMA)
    model.ignore_merges = False
    backend = tokenizers.Tokenizer(model)
    DRESSES[kind](backend, config)
    if stored.post_processor is not None:
        backend.post_processor = stored.post_processor
    return backend


def _unknown(config: Mapping[str, Any]) -> str:
    named = config.get("unk_token", "<unk>")
    return str(named.get("content") if isinstance(named, dict) else named)


def _dress_llama(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import decoders, pre_tokenizers

    prefixed = config.get("add_prefix_space")
    prefixed = True if prefixed is None else bool(prefixed)
    scheme = "never" if not prefixed else "always" if config.get("legacy") else "first"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if prefixed else []))


def _dress_gemma(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import decoders, normalizers, pre_tokenizers

    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _dress_qwen2(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated", invert=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space")), use_regex=False)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    backend.decoder = decoders.ByteLevel()


DRESSES = {LLAMA: _dress_llama, GEMMA: _dress_gemma, QWEN2: _dress_qwen2}


def from_vocab_and_merges(directory: Path, kind: str, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer for a directory without tokenizer.json; or the error that says how to get one."""
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    has_both = vocab.exists() and merges.exists()
    if not has_both or kind != QWEN2:
        convert = (
            f'python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )
        for name in SENTENCEPIECE_FILES:
            if (directory / name).exists():
                check_no_pointer_at(directory / name, TokenizerError)
                raise TokenizerError(
                    f"{directory}: has {name} but no tokenizer.json. Convert it once, with transformers, "
                    f"sentencepiece and protobuf installed: {convert}"
                )
        if has_both:
            raise TokenizerError(
                f"{directory}: has vocab.json and merges.txt but no tokenizer.json, and is no Qwen tokenizer. "
                f"Convert it once, with transformers installed: {convert}"
            )
        raise TokenizerError(f"{directory}: no tokenizer.json")
    for path in (vocab, merges):
        check_file(path, MAX_JSON_BYTES)
    with from_rust(f"{vocab} and {merges.name}: not a usable vocabulary"):
        import tokenizers
        from tokenizers.models import BPE

        backend = tokenizers.Tokenizer(BPE.from_file(str(vocab), str(merges)))
        _dress_qwen2(backend, config)
    return backend
