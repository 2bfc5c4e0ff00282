"""`cutset random`: writes a random model of any size, as an exchange file or as a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.models.random import RandomModel

__all__ = ["SIZES", "add_sizes", "configure", "model_from", "run"]

# Default and meaning of each size; the defaults are those of RandomModel, which isn't imported for `--help`.
SIZES = {
    "hidden": (64, "hidden size"),
    "layers": (2, "layers"),
    "heads": (8, "query heads"),
    "kv_heads": (2, "key-value heads"),
    "vocab": (128, "tokens of the vocabulary"),
    "max_pos": (128, "positions"),
    "seq_len": (5, "tokens of each input sequence"),
    "batch_size": (2, "input sequences"),
    "seed": (123, "of weights and inputs"),
    "experts": (0, "experts of each layer; 0 is dense"),
    "top_k": (2, "experts that a row passes"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.json|DIR", help="an exchange file, or a checkpoint"
    )
    add_sizes(parser)


def run(args: argparse.Namespace) -> int:
    model = model_from(args)
    try:
        if args.output.suffix == ".json":
            model.write_exchange(args.output)
        elif args.output.is_file():
            raise RequestError(f"{args.output} is a file; name a directory, or a file that ends in .json")
        else:
            from cutset.models.files.writer import new_directory

            with new_directory(args.output):
                model.write_checkpoint(args.output)
    except OSError as error:
        raise RequestError(f"{args.output} can't be written: {error.strerror}") from None
    print(f"{args.output}: {model.spec().family}, {model.spec().parameter_count():,} parameters, seed {model.seed}")
    return 0


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Adds the sizes of a random model as flags."""
    group = parser.add_argument_group("sizes")
    for name, (default, text) in SIZES.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="N", help=f"{text} (default {default})"
        )
    group.add_argument(
        "--intermediate", type=int, metavar="N", help="width of the MLP (default 8/3 of hidden, rounded up to 64)"
    )
    tied = group.add_mutually_exclusive_group()
    tied.add_argument("--tied", action="store_true", default=True, help="lm_head is the embedding (default)")
    tied.add_argument("--untied", action="store_false", dest="tied", help="lm_head has weights of its own")
    group.add_argument("--qk-norm", action="store_true", help="RMSNorm over each head of q and k, as in Qwen3")


def model_from(args: argparse.Namespace) -> RandomModel:
    """The RandomModel that the flags describe."""
    from cutset.models.random import RandomModel

    return RandomModel(
        **{name: getattr(args, name) for name in SIZES},
        intermediate=args.intermediate,
        tied=args.tied,
        qk_norm=args.qk_norm,
    )
