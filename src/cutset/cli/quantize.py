"""`cutset quantize`: writes an integer checkpoint, once, for every party; with --bits one of few bits for everybody."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import log, say
from cutset.cli.progress import Progress
from cutset.config import Settings, read_bounded
from cutset.errors import ModelError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutset.models.files.compressed_writer import Round
    from cutset.models.files.source import ModelSource

__all__ = ["configure", "run"]

PIECE = 512  # tokens that are run at a time
MOST_TOKENS = 1 << 17  # of calibration


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a float model: a directory or a name of models.yaml")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="TEXT", help="texts like those that the model is for: rounding "
        "errors are spread so that its products with their activations change least (GPTQ); without --bits scales "
        "also move between channels (SmoothQuant, AWQ)",
    )  # fmt: skip
    few = parser.add_argument_group("few bits", "written as compressed-tensors, which vLLM and transformers read too")
    few.add_argument("--bits", type=int, choices=(4, 8), help="bits of a weight; without it: an integer checkpoint")
    few.add_argument("--group", type=int, metavar="N", help="columns that share a scale, -1: a row (default 64)")
    few.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        help="groups lie around zero (default: with 8 bits, not with 4)",
    )
    few.add_argument(
        "--asymmetric", dest="symmetric", action="store_false", default=None, help="groups have a zero point"
    )
    few.add_argument(
        "--keep-8bit", metavar="NAMES", help="matrices that get 8 bits, with commas between: v_proj,down_proj"
    )
    add_settings(parser, "models_file", "download", "offline", "threads")


def run(args: argparse.Namespace) -> int:
    from cutset.models.files.source import open_source
    from cutset.models.registry import resolve

    if args.bits is None:
        for name in ("group", "symmetric", "keep_8bit"):
            if getattr(args, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} needs --bits 4 or --bits 8")
    settings = settings_from(args)
    source = open_source(resolve(args.model, settings).directory)
    if source.dtype == "int8":
        raise ModelError(f"{source.path} is an integer checkpoint already")
    _check_grouped(source, args.bits)
    with Progress() as progress:
        try:
            if args.bits is None:
                _write_integers(args, settings, source, progress)
            else:
                _write_few_bits(args, settings, source, progress)
        except OSError as error:
            raise ModelError(f"{args.output} can't be written: {error.strerror}") from None
    before, after = (_megabytes(folder) for folder in (source.path, args.output))
    say(f"{args.output}: {source.spec.parameter_count():,} parameters, {before:.1f} MB became {after:.1f} MB")
    return 0


def _check_grouped(source: ModelSource, bits: int | None) -> None:
    """Says that weights which were rounded once are rounded again, each time with another error. Raises ModelError
    where that gains nothing."""
    from cutset.models.files.compressed_writer import matrices
    from cutset.models.files.grouped import GroupedTensor

    found = {name: one for name in matrices(source.spec) if isinstance(one := source.tensors[name], GroupedTensor)}
    if not found:
        return
    names = ", ".join(sorted({one.form for one in found.values()}))
    fewest = min(one.grouped().bits for one in {one.form: one for one in found.values()}.values())
    if bits is not None and fewest <= bits:
        raise ModelError(
            f"{source.path} has weights of {fewest} bits already ({names}): use it as it is, or quantize the float "
            "model that it was made from"
        )
    log(f"{source.path} has weights that were rounded once ({names}) and are rounded again: the float model loses less")


def _write_integers(args: argparse.Namespace, settings: Settings, source: ModelSource, progress: Progress) -> None:
    from cutset.models.files.integer import write_integer_checkpoint
    from cutset.models.run.recipe import CalibratedRecipe

    recipe = None
    if args.calibrate:
        _check_new(args.output)
        pieces = _pieces(args.calibrate, settings, source)
        recipe = CalibratedRecipe(source.spec, source.tensors, pieces, progress)
    write_integer_checkpoint(source.spec, source.config, source.tensors, source.path, args.output, progress, recipe)


def _check_new(target: Path) -> None:
    """Before a long calibration."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not an empty directory; name a new one")


def _write_few_bits(args: argparse.Namespace, settings: Settings, source: ModelSource, progress: Progress) -> None:
    from cutset.models.files.compressed_writer import schemes_of, write_compressed
    from cutset.models.files.group_rounding import Scheme, nearest

    group = 64 if args.group is None else args.group
    if group != -1 and not 1 <= group <= 1 << 20:
        raise RequestError(f"--group must be -1 or a number of columns, not {group}")
    symmetric = args.bits == 8 if args.symmetric is None else args.symmetric
    more = tuple(name.strip() for name in (args.keep_8bit or "").split(",") if name.strip())
    schemes = schemes_of(source.spec, Scheme(args.bits, group, symmetric), more)
    _check_new(args.output)
    round_matrix: Round = lambda name, weight, scheme: nearest(weight, scheme)  # noqa: E731
    if args.calibrate:
        round_matrix = _calibrated(args.calibrate, settings, source, progress)
    write_compressed(
        source.spec, source.config, source.tensors, source.path, args.output, schemes, round_matrix, progress
    )


def _pieces(texts: list[Path], settings: Settings, source: ModelSource) -> list[NDArray[np.int32]]:
    """The tokens of texts, in pieces that a model is run over."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    from cutset.models.text.tokenizer import Tokenizer

    threadpool_limits(settings.thread_count)
    tokenizer = Tokenizer.load(source.path)
    ids = np.concatenate([np.asarray(tokenizer.encode(read_bounded(text)), np.int32) for text in texts])[:MOST_TOKENS]
    if len(ids) < PIECE:
        raise RequestError(f"{len(ids)} tokens of text are too few to calibrate with; {PIECE} are the least")
    length = min(PIECE, source.spec.context)
    return [ids[first : first + length] for first in range(0, len(ids), length)]


def _calibrated(texts: list[Path], settings: Settings, source: ModelSource, progress: Callable[..., Any]) -> Round:
    """Rounding by the activations of texts."""
    from cutset.models.files.compressed_writer import matrices
    from cutset.models.files.error_spreading import compensation
    from cutset.models.files.group_rounding import compensated, nearest
    from cutset.models.run.calibration import Calibration

    calibration = Calibration(source.spec, source.tensors, _pieces(texts, settings, source), progress)
    sites, last = matrices(source.spec), dict[Any, Any]()

    def round_matrix(name: str, weight: Any, scheme: Any) -> Any:
        site = sites[name]
        if site not in last:  # the matrices of a site follow each other
            last.clear()
            last[site] = compensation(calibration.moments(site), calibration.count(site))
        return nearest(weight, scheme) if last[site] is None else compensated(weight, scheme, last[site])

    return round_matrix


def _megabytes(folder: Path) -> float:
    from cutset.models.files.formats import weight_files

    return sum(file.stat().st_size for file in weight_files(folder)) / 1e6
