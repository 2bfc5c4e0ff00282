"""`cutset forward`: logits of whole sequences by one backend, timed, with every operator's output if wanted."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from cutset.cli.options import add_json, add_settings, different, output_folder, output_path, settings_from
from cutset.errors import RequestError
from cutset.files import write_atomically

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="FILE.json|DIR", help="an exchange file, or a checkpoint directory")
    parser.add_argument("-o", "--output", type=output_path, metavar="FILE.npy", help="where the logits go")
    parser.add_argument("--inputs", type=Path, metavar="FILE.json", help="exchange file whose inputs a DIR is given")
    parser.add_argument("--warmup", type=int, default=0, metavar="N", help="passes before those that count (default 0)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="passes that count (default 1)")
    parser.add_argument("--trace", type=output_folder, metavar="DIR", help="write what every operator gives to DIR")
    add_json(parser, "the times")
    add_settings(parser, "backend", "dtype", "device", "threads", "verify")


def run(args: argparse.Namespace) -> int:
    different(args, "output", "json")
    settings = settings_from(args)
    import numpy as np

    from cutset.cli.bench_rows import save_rows
    from cutset.compare.forward import run_forward, write_trace
    from cutset.compare.results import summarise
    from cutset.models.files.exchange import ExchangeFile
    from cutset.models.files.source import open_source
    from cutset.models.run.backend import build_executor

    source = open_source(args.model, settings.verify)
    inputs = source.inputs if args.inputs is None else ExchangeFile(args.inputs).inputs
    if inputs is None:
        raise RequestError(f"{args.inputs or args.model} has no inputs; name an exchange file with --inputs")
    if inputs[0].max() >= source.spec.vocab_size:
        raise RequestError(f"the inputs hold id {inputs[0].max()}; the vocabulary has {source.spec.vocab_size}")
    if (tokens := inputs[0].shape[1]) > source.spec.longest:
        raise RequestError(f"the inputs have {tokens} tokens; the model has {source.spec.longest} positions")
    executor, choice = build_executor(source, settings)
    result = run_forward(executor, inputs, args.warmup, args.repeat)
    system = f"cutset {choice.backend} {choice.dtype}"
    batch, tokens = inputs[0].shape
    row = summarise(f"{args.model.stem} {batch}x{tokens}", system, "forward", result.seconds, "s")
    spread = "" if row.spread is None else f" ± {row.spread:.1%}"
    print(f"{system}: {row.value * 1e3:.3f} ms{spread} for {batch} x {tokens} tokens, median of {args.repeat}")
    try:
        if args.output is not None:
            file = io.BytesIO()  # np.save would add .npy to another name
            np.save(file, result.logits)
            write_atomically(args.output, file.getbuffer())
        if args.trace is not None:
            print(f"{args.trace}: {write_trace(executor, inputs, args.trace)} operators")
    except OSError as error:
        raise RequestError(f"{error.filename or args.trace} can't be written: {error.strerror}") from None
    save_rows(args, [row], threads=choice.threads)
    return 0
