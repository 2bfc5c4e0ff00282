"""`python -m benchmarks NAME …`; commands are made as those of `cutset`, whose `bench` has the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cutset.cli import Command
from cutset.cli import main as run_commands
from cutset.cli.bench import BENCHES

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "decode": Command("benchmarks.decode", "Cutset and other programs on the same weights, in turns"),
    "families": Command("benchmarks.families", "every family beside transformers and llama.cpp, on random models"),
    "adapters": Command("benchmarks.adapters", "LoRA adapters in one batch beside the same batch without"),
    "link": Command("benchmarks.link", "every link beside the bare ring and bare ZeroMQ"),
    "delta": Command("benchmarks.delta", "the delta codec of a cut edge beside other codings"),
    "replicas": Command("benchmarks.replicas", "two replicas beside two servers that are fed by hand, and one engine"),
    "batches": Command("benchmarks.batches", "batches over a Ray cluster whose engines die, and over a node a core"),
    "ray_stages": Command("benchmarks.ray_stages", "stages placed by Ray beside stages by hand, and Ray at rest"),
    "stages": Command("benchmarks.stages", "a model over two stages, llama.cpp's RPC beside it, and its targets"),
    "stream": Command("benchmarks.stream", "a network over emulated machines: bytes, plans, faults, planning"),
    "simulation": Command("benchmarks.simulation", "what `cutset simulate` says beside what is measured here"),
    "video": Command("benchmarks.video", "computing only what changed beside torch, OpenVINO and onnxruntime"),
    "cameras": Command("benchmarks.cameras", "sixteen cameras over a worker that keeps up with eight"),
    "frigate": Command("benchmarks.frigate", "requests of Frigate's protocol with a worker killed on the way"),
    "neighbours": Command("benchmarks.neighbours", "what hostile clients of an accelerator leave to the others"),
    "onnx_files": Command("benchmarks.onnx_files", "ONNX files whole beside onnxruntime, and cut over three workers"),
    "private_pictures": Command(
        "benchmarks.private_pictures", "a client of private pictures beside multiplying itself"
    ),
    "offload": Command("benchmarks.offload", "every mode of an offload beside the model run here, and its targets"),
    "masked_speculation": Command(
        "benchmarks.masked_speculation", "masked drafts over an accelerator that is far away"
    ),
    "sealed": Command("benchmarks.sealed", "a sealed checkpoint beside the plain one: start and tokens a second"),
    "kernels_linear": Command("benchmarks.kernels_linear", "linear layers beside plain reads and torch"),
    "kv": Command("benchmarks.kv", "a KV cache in 8 bits, and prefixes on disk, beside what they replace"),
    "receipts": Command("benchmarks.receipts", "the CPU time that receipts cost beside decoding"),
    "side_channels": Command("benchmarks.side_channels", "what sizes and times of streams tell, padded and not"),
    "quality": Command("benchmarks.quality", "what fewer bits cost, ours beside llama.cpp's and OpenVINO's"),
    "report": Command("benchmarks.report", "write BENCHMARKS.md from benchmarks/*.json"),
}
for name, module in BENCHES.items():
    COMMANDS.setdefault(name, Command(module.__name__, module.HELP))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark and returns the exit code, as `cutset.cli.main` does."""
    return run_commands(argv, COMMANDS, "python -m benchmarks", "Measures Cutset beside other programs.")


if __name__ == "__main__":
    sys.exit(main())
