"""Programs that run a model in a form of their own, exported from the checkpoint before they start: OpenVINO and
onnxruntime-genai. Run by path like `opponents.py`, with a Python that has them:

    PYTHON exported.py "openvino int4" CHECKPOINT --threads N

OpenVINO gets what optimum-intel exports: weights in 8 bits a channel, symmetric, or in 4 bits in groups of 64 with zero
points and without exceptions. onnxruntime-genai gets what its model builder makes: 4 bits in blocks of 32 and 8-bit
activations (int4_accuracy_level 4), its fastest on processors.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.opponents import child, prompt_ids  # imports nothing of Cutset's libraries either

GROUP = 64


class OpenVino:
    """OpenVINO's runtime on a stateful model, asked for latency; its key and value cache is 8-bit by default."""

    def __init__(self, folder: pathlib.Path, vocab: int, threads: int, bits: int, scratch: pathlib.Path) -> None:
        import numpy
        import openvino
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

        self.np, self.vocab = numpy, vocab
        self.versions = {"openvino": openvino.__version__.split("-")[0]}
        quantization = OVWeightQuantizationConfig(
            bits=bits, sym=bits == 8, group_size=-1 if bits == 8 else GROUP, ratio=1.0
        )
        model = OVModelForCausalLM.from_pretrained(folder, export=True, quantization_config=quantization, compile=False)
        model.save_pretrained(scratch)
        del model
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(str(scratch / "openvino_model.xml"), "CPU", options)
        self.request = compiled.create_infer_request()

    def forward(self, batch: int, tokens: int) -> float:
        raise NotImplementedError("the exported model gives logits of the last token")

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        ids = self.np.array([prompt_ids(prompt, self.vocab, 300 + i) for i in range(sequences)])
        self.request.reset_state()
        start = time.perf_counter()
        self._step(ids, 0)
        middle = time.perf_counter()
        for i in range(steps):
            self._step(self.np.array([[3 + i + s] for s in range(sequences)]), prompt + i)
        return middle - start, time.perf_counter() - middle

    def answers(self, ids: list[int], file: str) -> None:
        """Writes logits (tokens, vocab) of the second half of a text as an .npy file; those of the first are 0."""
        np, middle = self.np, len(ids) // 2
        self.request.reset_state()
        self._step(np.array([ids[:middle]]), 0)
        found = np.zeros((len(ids), self.vocab), np.float32)
        for at in range(middle, len(ids)):
            self._step(np.array([[ids[at]]]), at)
            found[at] = self.request.get_tensor("logits").data[0, -1]
        np.save(file, found)

    def _step(self, ids: Any, position: int) -> None:
        np, (sequences, tokens) = self.np, ids.shape
        self.request.infer(
            {
                "input_ids": ids.astype(np.int64),
                "attention_mask": np.ones((sequences, position + tokens), np.int64),
                "position_ids": np.arange(position, position + tokens)[None].repeat(sequences, 0),
                "beam_idx": np.arange(sequences, dtype=np.int32),
            }
        )


class OrtGenai:
    """onnxruntime-genai on what its own model builder made."""

    def __init__(self, folder: pathlib.Path, vocab: int, threads: int, bits: int, scratch: pathlib.Path) -> None:
        import numpy
        import onnxruntime_genai

        self.np, self.library, self.vocab = numpy, onnxruntime_genai, vocab
        self.versions = {"onnxruntime-genai": onnxruntime_genai.__version__}
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(folder), "-o", str(scratch)]
        command += ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"]
        subprocess.run(command, check=True, capture_output=True)
        config = json.loads((scratch / "genai_config.json").read_text())
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        (scratch / "genai_config.json").write_text(json.dumps(config))
        self.model = onnxruntime_genai.Model(str(scratch))

    def forward(self, batch: int, tokens: int) -> float:
        raise NotImplementedError("onnxruntime-genai has no pass without a cache")

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        np = self.np
        ids = np.array([prompt_ids(prompt, self.vocab, 300 + i) for i in range(sequences)], np.int32)
        parameters = self.library.GeneratorParams(self.model)
        parameters.set_search_options(
            max_length=prompt + steps + 1, min_length=prompt + steps + 1, batch_size=sequences, do_sample=False
        )
        generator = self.library.Generator(self.model, parameters)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        middle = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        return middle - start, time.perf_counter() - middle


def open_system(system: str, folder: pathlib.Path, threads: int, scratch: pathlib.Path) -> Any:
    program, kind = system.split(" ")
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    made = {"openvino": OpenVino, "onnxruntime-genai": OrtGenai}[program]
    return made(folder, vocab, threads, int(kind.removeprefix("int")), scratch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        child.answer_commands(lambda: open_system(args.system, args.folder, args.threads, place), child.timed)
