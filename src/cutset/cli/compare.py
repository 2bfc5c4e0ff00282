"""`cutset compare`: whether two arrays or two traces agree; exit 1 if they don't."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json
from cutset.cli.output import say
from cutset.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutset.compare.agreement import Agreement

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a .npy file, or the folder of a trace")
    parser.add_argument("b", type=Path, metavar="B", help="the same, to measure A against")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="exchange file or .npy that says what is padding")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X", help="largest relative L2 distance (default 1e-4)"
    )
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    from cutset.compare.agreement import compare_arrays, compare_traces, load_array

    if not args.tolerance >= 0:
        raise RequestError(f"--tolerance must be a number of at least 0, not {args.tolerance}")
    mask = None if args.mask is None else _mask(args.mask)
    if args.a.is_dir() != args.b.is_dir():
        raise RequestError("compare two .npy files, or the folders of two traces")
    if args.a.is_dir():
        found = compare_traces(args.a, args.b, None if mask is None else mask.reshape(-1))
        parted = next((name for name, one in found.items() if not one.within(args.tolerance)), None)
        width = max(map(len, found))
        for name, one in found.items():
            say(f"{name:<{width}}  {one}" + ("   <-- they part here" if name == parted else ""))
        agree = parted is None
    else:
        one = compare_arrays(load_array(args.a), load_array(args.b), mask)
        found, agree = {"array": one}, one.within(args.tolerance)
        print(one)
    print(f"they {'agree' if agree else 'DIFFER'} (tolerance {args.tolerance:g})")
    if args.json:
        from cutset.files import write_json

        write_json(args.json, {"agree": agree, "tolerance": args.tolerance, "steps": _plain(found)})
    return 0 if agree else 1


def _mask(path: Path) -> NDArray[np.bool_]:
    from cutset.compare.agreement import load_array
    from cutset.models.files.exchange import ExchangeFile

    if path.suffix == ".npy":
        return load_array(path).astype(bool)
    inputs = ExchangeFile(path).inputs
    if inputs is None:
        raise RequestError(f"{path} has no inputs, so it doesn't say what is padding")
    return inputs[1]


def _plain(found: dict[str, Agreement]) -> dict[str, Any]:
    figures = ("relative_l2", "max_error", "cosine", "top1", "positions")
    return {
        name: {"problem": one.problem} if one.problem else {figure: getattr(one, figure) for figure in figures}
        for name, one in found.items()
    }
