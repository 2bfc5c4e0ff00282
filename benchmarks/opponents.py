"""Other people's programs under the same work, each in a process of its own.

This file is run by path, with whatever Python has the opponent installed, so it imports nothing of Cutset's libraries:

    PYTHON opponents.py SYSTEM CHECKPOINT --threads N

It loads the checkpoint and answers commands as `cutset/bench/child.py` says:
{"do": "forward", "batch": B, "tokens": S, "repeat": R} and {"do": "generate", "sequences": N, "prompt": P, "steps": D}.
Times are seconds of the work alone. {"do": "logits", "tokens": S} says what follows a prompt, so that systems can be
compared before they are timed. {"do": "answers", "ids": [...], "file": F} writes what follows each of some tokens, for
`quality.py`. Each opponent gets its own preferred format of the same weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import shutil
import tempfile
import time
from types import ModuleType
from typing import Any


def _load(file: str) -> ModuleType:
    """A module of this checkout by its file, without its package, which needs libraries of its own."""
    path = pathlib.Path(__file__).resolve().parents[1] / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


child = _load("src/cutset/bench/child.py")
write_gguf = _load("benchmarks/family_gguf.py").write_gguf
prompt_ids = child.prompt_ids
# Mixtures of types that llama.cpp's own tool makes; the others are of one type, and gguf makes them.
MIXED = ("Q4_K_M", "Q5_K_M")


class Transformers:
    """transformers in eager mode, or compiled as its documentation says: the forward pass by torch.compile with static
    shapes, over a cache of fixed size whose memory stays."""

    def __init__(
        self, folder: pathlib.Path, config: dict[str, Any], threads: int, compiled: bool = False, dtype: str = "float32"
    ) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.vocab = torch, config["vocab_size"]
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.compiled = compiled
        self.run = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.caches: dict[tuple[int, int], Any] = {}  # by sequences and tokens; another one would be compiled anew

    def forward(self, batch: int, tokens: int) -> float:
        ids = self.torch.tensor([prompt_ids(tokens, self.vocab, i) for i in range(batch)])
        with self.torch.inference_mode():
            start = time.perf_counter()
            self.run(ids, use_cache=False)
            return time.perf_counter() - start

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        torch = self.torch
        ids = torch.tensor([prompt_ids(prompt, self.vocab, 300 + i) for i in range(sequences)])
        with torch.inference_mode():
            cache = self._static_cache(sequences, prompt + steps) if self.compiled else None
            start = time.perf_counter()
            out = self.run(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            middle = time.perf_counter()
            for _ in range(steps):
                following = out.logits[:, -1].argmax(-1, keepdim=True)
                out = self.run(following, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
            return middle - start, time.perf_counter() - middle

    def logits(self, tokens: int) -> list[float]:
        with self.torch.inference_mode():
            ids = self.torch.tensor([prompt_ids(tokens, self.vocab)])
            found: list[float] = self.model(ids, use_cache=False).logits[0, -1].tolist()
        return found

    def _static_cache(self, sequences: int, tokens: int) -> Any:
        if (sequences, tokens) not in self.caches:
            from transformers import StaticCache

            cache, config = StaticCache(config=self.model.config, max_cache_len=tokens), self.model.config
            heads = config.num_key_value_heads
            width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            cache.early_initialization(sequences, heads, width, self.torch.float32, self.torch.device("cpu"))
            self.caches[sequences, tokens] = cache
        self.caches[sequences, tokens].reset()
        return self.caches[sequences, tokens]


class CTranslate2:
    """CTranslate2, converted from the checkpoint to float32 or int8."""

    def __init__(
        self, folder: pathlib.Path, config: dict[str, Any], threads: int, kind: str, scratch: pathlib.Path
    ) -> None:
        import ctranslate2

        self.versions = {"ctranslate2": ctranslate2.__version__}
        out = scratch / kind
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(out), quantization=kind)
        self.words = json.loads((out / "vocabulary.json").read_text())  # padded up to the config's vocab_size
        self.model = ctranslate2.Generator(
            str(out), device="cpu", intra_threads=threads, inter_threads=1, compute_type=kind
        )

    def _batch(self, sequences: int, tokens: int) -> list[list[str]]:
        return [[self.words[i] for i in prompt_ids(tokens, len(self.words), 300 + n)] for n in range(sequences)]

    def forward(self, batch: int, tokens: int) -> float:
        words = self._batch(batch, tokens)
        start = time.perf_counter()
        self.model.forward_batch(words)
        return time.perf_counter() - start

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        words = self._batch(sequences, prompt)
        options = {"include_prompt_in_result": False, "max_batch_size": sequences}
        start = time.perf_counter()
        self.model.generate_batch(words, max_length=1, **options)
        middle = time.perf_counter()
        self.model.generate_batch(words, max_length=steps + 1, min_length=steps + 1, **options)
        first = middle - start
        return first, time.perf_counter() - middle - first


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on a GGUF file written from the same weights in F32, F16, BF16 or Q8_0."""

    def __init__(
        self, folder: pathlib.Path, config: dict[str, Any], threads: int, kind: str, scratch: pathlib.Path
    ) -> None:
        import llama_cpp

        self.versions = {"llama-cpp-python": llama_cpp.__version__}
        self.vocab, self.threads = config["vocab_size"], threads
        path = folder if folder.suffix == ".gguf" else written(folder, config, kind, scratch)
        self.model = llama_cpp.Llama(
            str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512, verbose=False
        )

    def forward(self, batch: int, tokens: int) -> float:
        raise NotImplementedError("llama-cpp-python evaluates one sequence")

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        if sequences > 1:
            return self._generate_many(sequences, prompt, steps)
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(prompt_ids(prompt, self.vocab))
        middle = time.perf_counter()
        for i in range(steps):
            self.model.eval([3 + i])
        return middle - start, time.perf_counter() - middle

    def logits(self, tokens: int) -> list[float]:
        import llama_cpp

        self.model.reset()
        self.model.eval(prompt_ids(tokens, self.vocab))
        last = llama_cpp.llama_get_logits_ith(self.model.ctx, -1)
        return [float(value) for value in last[: self.vocab]]

    def answers(self, ids: list[int], file: str) -> None:
        """Writes the logits of all positions of a text, (tokens, vocab), as an .npy file."""
        import numpy
        from llama_cpp import llama_cpp as library

        options = library.llama_context_default_params()
        options.n_ctx = options.n_batch = -(-len(ids) // 256) * 256
        options.n_threads = options.n_threads_batch = self.threads
        context = library.llama_init_from_model(self.model.model, options)
        batch = library.llama_batch_init(len(ids), 0, 1)
        try:
            vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model.model))
            batch.n_tokens = len(ids)
            for at, token in enumerate(ids):
                batch.token[at], batch.pos[at], batch.logits[at] = token, at, 1
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
            if code := library.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode ended with {code}")
            logits = library.llama_get_logits(context)
            numpy.save(file, numpy.ctypeslib.as_array(logits, (len(ids), vocab)))
        finally:
            library.llama_batch_free(batch)
            library.llama_free(context)

    def _generate_many(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        """Several sequences in one batch, by the library's own functions: the class of llama-cpp-python takes one."""
        from llama_cpp import llama_cpp as library

        options = library.llama_context_default_params()
        options.n_ctx, options.n_seq_max = sequences * -(-(prompt + steps) // 256) * 256, sequences
        options.n_batch, options.n_ubatch = sequences * prompt, 512
        options.n_threads = options.n_threads_batch = self.threads
        context = library.llama_init_from_model(self.model.model, options)
        batch = library.llama_batch_init(sequences * prompt, 0, 1)
        try:
            prompts = [prompt_ids(prompt, self.vocab, 300 + i) for i in range(sequences)]
            start = time.perf_counter()
            self._decode(library, context, batch, prompts, 0)
            middle = time.perf_counter()
            for i in range(steps):
                self._decode(library, context, batch, [[3 + i + s] for s in range(sequences)], prompt + i)
            return middle - start, time.perf_counter() - middle
        finally:
            library.llama_batch_free(batch)
            library.llama_free(context)

    def _decode(self, library: Any, context: Any, batch: Any, rows: list[list[int]], position: int) -> None:
        """One step: `rows` are the tokens of each sequence from `position` on; the last of each gets logits."""
        batch.n_tokens = 0
        for sequence, tokens in enumerate(rows):
            for place, token in enumerate(tokens):
                at, batch.n_tokens = batch.n_tokens, batch.n_tokens + 1
                batch.token[at], batch.pos[at] = token, position + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = place == len(tokens) - 1
        if code := library.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode ended with {code}")
        library.llama_get_logits_ith(context, batch.n_tokens - 1)  # waits for the result


def written(folder: pathlib.Path, config: dict[str, Any], kind: str, scratch: pathlib.Path) -> pathlib.Path:
    """A GGUF file of a checkpoint, of one type as gguf makes it, or as llama.cpp's own tool makes it of float32."""
    if kind not in MIXED:
        path: pathlib.Path = write_gguf(folder, config, kind, scratch)
        return path
    import ctypes

    from llama_cpp import llama_cpp as library

    source, path = write_gguf(folder, config, "F32", scratch), scratch / f"{kind}.gguf"
    options = library.llama_model_quantize_default_params()
    options.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if library.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp can't quantise {source.name} to {kind}")
    source.unlink()
    return path


def open_system(system: str, folder: pathlib.Path, threads: int, scratch: pathlib.Path) -> Any:
    config = json.loads((folder / "config.json").read_text()) if folder.is_dir() else {"vocab_size": 32000}
    program, _, kind = system.partition(" ")
    if program in ("transformers", "torch.compile"):
        return Transformers(folder, config, threads, program == "torch.compile", kind or "float32")
    if program == "ctranslate2":
        return CTranslate2(folder, config, threads, kind, scratch)
    return LlamaCpp(folder, config, threads, kind.upper(), scratch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write-gguf", type=pathlib.Path, help="only write the GGUF file there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        if args.write_gguf:
            config = json.loads((args.folder / "config.json").read_text())
            shutil.move(written(args.folder, config, args.system.split(" ")[1].upper(), place), args.write_gguf)
        else:
            child.answer_commands(lambda: open_system(args.system, args.folder, args.threads, place), child.timed)
