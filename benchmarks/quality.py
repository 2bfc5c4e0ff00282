"""`python -m benchmarks quality`: what fewer bits cost a model, ours beside llama.cpp's and OpenVINO's own answers.

All read the same texts, and everybody is held against our float32, as `cutset bench quality` does. What is made of the
model on the way (calibrated integers, 4 bits in groups, llama.cpp's and OpenVINO's files) is made of its floats. Texts
for calibration are the documentation and sources of other modules than those that are judged.

With `--rotated` the model is moved off its file's grid first (`rotated.py`): what a rounder makes of floats that
another one has rounded before says little.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import exported, opponents
from benchmarks.decode import pythons
from benchmarks.rotated import write_rotated
from benchmarks.targets import Target, targets_table
from cutset.bench.quality import Answers, Quality, Variant, measure_quality
from cutset.bench.turns import Process
from cutset.cli import bench_quality
from cutset.cli import main as run_command
from cutset.cli.bench_rows import save_rows
from cutset.cli.options import settings_from
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.config import Settings
from cutset.errors import EngineError, ModelError, RequestError
from cutset.models.files.integer import quantized
from cutset.models.files.source import convert, open_source
from cutset.models.registry import resolve

__all__ = ["OPPONENTS", "OURS", "TARGETS", "calibration_texts", "configure", "run"]

CALIBRATED = "--calibrate"
# What is made of the model by `cutset quantize`, and in which dtype it runs.
OURS: dict[str, tuple[tuple[str, ...], str]] = {
    "exact, calibrated": ((CALIBRATED,), "exact"),
    "int8, calibrated": ((CALIBRATED,), "int8"),
    "4 bits, groups of 64": (("--bits", "4", "--group", "64"), "stored"),
    "4 bits, groups of 64, calibrated": (("--bits", "4", "--group", "64", CALIBRATED), "stored"),
    "4 bits, groups of 128": (("--bits", "4", "--group", "128"), "stored"),
    "4 bits, groups of 128, calibrated": (("--bits", "4", "--group", "128", CALIBRATED), "stored"),
}
FILE = "llama.cpp file"  # the model's own GGUF file
OPPONENTS = (FILE, "llama.cpp f32", "llama.cpp q8_0", "llama.cpp q4_0", "llama.cpp q4_k_m", "openvino int8",
             "openvino int4")  # fmt: skip
DOCUMENTED = ("asyncio", "collections", "decimal", "doctest", "email", "enum", "http.client", "ipaddress", "json",
              "logging", "multiprocessing", "optparse", "pathlib", "pickle", "random", "smtplib", "socketserver",
              "statistics", "string", "tempfile", "threading", "turtle", "typing", "unittest.mock", "urllib.request",
              "wave", "xml.dom.minidom", "zipfile")  # fmt: skip
SOURCES = ("calendar", "configparser", "difflib", "functools", "heapq", "mailbox", "shutil", "tarfile", "traceback")
MOST_CALIBRATION = 48_000  # characters of each text
FLOATS = ("float32", "float16", "bfloat16")
MEAN = "divergence from float32, mean"
OVER_Q4, OVER_Q8 = "divergence over llama.cpp's Q4_K_M", "divergence over llama.cpp's Q8_0"
Opened = Callable[[], AbstractContextManager[Answers | None]]
TARGETS = (
    Target("exact, calibrated", MEAN, 0.003, system="cutset exact, calibrated"),
    Target("int8", MEAN, 0.0045, system="cutset native int8"),
    Target("int8 over llama.cpp's Q8_0", OVER_Q8, 1.0),
    Target("calibrated 4 bits over llama.cpp's Q4_K_M", OVER_Q4, 1.0, system="cutset 4 bits, groups of 64, calibrated"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    bench_quality.configure(parser)
    parser.add_argument(
        "--system",
        action="append",
        metavar="NAME",
        help=f"further ones, of {'; '.join((*OURS, *OPPONENTS))}; repeatable (default: all)",
    )
    parser.add_argument("--rotated", action="store_true", help="move the model off its file's grid first")
    parser.add_argument(
        "--calibrate", action="append", type=Path, metavar="FILE", help="a text to calibrate with; repeatable"
    )
    parser.add_argument(
        "--python", action="append", metavar="[PROGRAM=]FILE", help="the Python that has the opponents, or one of them"
    )


def run(args: argparse.Namespace) -> int:
    if args.window < 4 or args.positions < 1:
        raise ModelError("--window must be at least 4 and --positions at least 1")
    known = (*OURS, *OPPONENTS)
    wanted = tuple(args.system or known)
    if unknown := [name for name in wanted if name not in known]:
        raise RequestError(f"--system {unknown[0]!r} isn't one of: {', '.join(known)}")
    settings, texts = settings_from(args), bench_quality.read_texts(args.text)
    rows: list[Row] = []
    shown: dict[str, dict[str, Quality]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Workshop(args, settings, Path(name))
        model = str(work.rotated()) if args.rotated else args.model
        title = f"{Path(args.model).name}{', rotated' if args.rotated else ''}"
        measured = measure_quality(
            model,
            texts,
            args.dtype,
            [*args.against, *work.ours(model, wanted)],
            window=args.window,
            positions=args.positions,
            others=work.others(model, wanted),
            threads=settings.thread_count,
            models_file=settings.models_file,
            offline=settings.offline,
        )
        for label, found in measured:
            log(f"{label}: measured")
            shown[label] = found
            system = label if label in OPPONENTS else f"cutset {label if label in OURS else f'native {label}'}"
            rows += bench_quality.quality_rows(title, system, found)
        for label, bits in work.bits.items():
            system = label if label in OPPONENTS else f"cutset {label}"
            rows.append(Row(title, system, "bits a weight, of matrices in layers", bits, "bits"))
    rows += list(ratios(rows))
    print(bench_quality.quality_table(shown))
    print("\n".join(f"{label}: {bits:.2f} bits a weight of the layers' matrices" for label, bits in work.bits.items()))
    print(targets_table(rows, TARGETS))
    hidden = dict.fromkeys(args.python or (), "PYTHON")
    save_rows(args, rows, threads=settings.thread_count, versions=work.versions, hidden=hidden)
    return 0


class Workshop:
    """Makes files of a model, and lets other programs answer, in a folder of its own."""

    def __init__(self, args: argparse.Namespace, settings: Settings, folder: Path) -> None:
        self.folder, self.threads, self.versions = folder, settings.thread_count, dict[str, str]()
        self.bits = dict[str, float]()
        self._python, self._settings = pythons(args.python), settings
        self._model, self._given = args.model, args.calibrate
        self._floats: Path | None = None

    def rotated(self) -> Path:
        """The model off its grid, as a float checkpoint."""
        self._floats = self.folder / "rotated"
        write_rotated(open_source(resolve(self._model, self._settings).directory), self._floats)
        return self._floats

    def ours(self, model: str, wanted: Sequence[str]) -> Iterator[Variant]:
        """What `cutset quantize` makes of it, one at a time."""
        made = dict[tuple[str, ...], Path]()
        for label in wanted:
            if label not in OURS:
                continue
            words, dtype = OURS[label]
            if words not in made:
                made[words] = self.folder / f"ours-{len(made)}"
                texts = [str(text) for text in self._texts()]
                given = [part for word in words for part in ([word, *texts] if word == CALIBRATED else [word])]
                log(f"{label}: cutset quantize {' '.join(words)}")
                command = ["quantize", model, "-o", str(made[words]), *given, "--threads", str(self.threads)]
                if run_command(command):
                    log(f"{label}: left out")
                    del made[words]
                    continue
            self.bits[label] = bits_of_layers(made[words])
            yield Variant(label, made[words], dtype)

    def others(self, model: str, wanted: Sequence[str]) -> Mapping[str, Opened]:
        """Other programs' answers by name, each in a process that begins when it is asked."""
        found: dict[str, Opened] = {}
        for label in wanted:
            if label in OPPONENTS and (label != FILE or model.endswith(".gguf")):
                found[label] = lambda label=label: self._answers(label, model)  # type: ignore[misc]
        return found

    @contextlib.contextmanager
    def _answers(self, label: str, model: str) -> Iterator[Answers | None]:
        try:
            process = self._process(label, model)
        except EngineError as error:
            log(f"{error}: left out")
            yield None
            return
        with process:
            self.versions |= process.ready["versions"]

            def answers(ids: NDArray[np.int32]) -> NDArray[np.float32]:
                file = self.folder / "answers.npy"
                process.call(do="answers", ids=ids.tolist(), file=str(file))
                found: NDArray[np.float32] = np.load(file, allow_pickle=False)
                return found

            yield answers

    def _process(self, label: str, model: str) -> Process:
        """Another program with its own file of the model. Raises EngineError where it can't be had."""
        if label == FILE:
            words = [opponents.__file__, label, model]
        elif label.startswith("llama.cpp"):
            words = [opponents.__file__, FILE, str(self._gguf(label, model))]
        else:
            words = [exported.__file__, label, str(self._checkpoint(model))]
        command = [self._python(label), *words, "--threads", str(self.threads)]
        return Process(command, name=label, threads=self.threads, quiet=True)

    def _gguf(self, label: str, model: str) -> Path:
        path = self.folder / f"{label.split(' ')[1]}.gguf"
        command = [self._python(label), opponents.__file__, label, str(self._checkpoint(model)), "--write-gguf"]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"{label}: no file was made: {done.stderr.strip().splitlines()[-1:]}")
        self.bits[label] = bits_of_layers(path)
        return path

    def _checkpoint(self, model: str) -> Path:
        """The model's floats as a checkpoint directory."""
        if self._floats is None:
            source = open_source(resolve(model, self._settings).directory)
            if source.path.is_dir() and source.dtype in FLOATS:
                self._floats = source.path
            else:
                self._floats = self.folder / "floats"
                convert(source, self._floats)
        return self._floats

    def _texts(self) -> list[Path]:
        if self._given:
            return list(self._given)
        found = []
        for name, text in calibration_texts().items():
            found.append(self.folder / f"{name}.txt")
            found[-1].write_text(text, encoding="utf-8")
        return found


def calibration_texts() -> dict[str, str]:
    """Prose and code that every machine has, and nobody is judged by: documentation in modules, and sources."""
    documented = []
    for name in DOCUMENTED:
        tree = ast.parse(_source(name))
        each = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        documented += [text for node in each if (text := ast.get_docstring(node)) and len(text) > 200]
    sources = [_source(name)[: MOST_CALIBRATION // len(SOURCES)] for name in SOURCES]
    return {"documentation": "\n\n".join(documented)[:MOST_CALIBRATION], "sources": "\n\n".join(sources)}


def _source(module: str) -> str:
    found = importlib.util.find_spec(module)
    if found is None or not found.origin:
        raise ModelError(f"Python's {module} has no source here; name texts with --calibrate")
    return Path(found.origin).read_text(encoding="utf-8")


def bits_of_layers(path: Path) -> float:
    """Bits a weight of the matrices that layers multiply, scales and all."""
    source = open_source(path)
    spec, shapes, size = source.spec, source.spec.tensor_shapes(), 0
    layers = [site for site in spec.sites() if site[0] != "lm_head"]
    if source.dtype == "int8":
        for site in layers:
            weight, scales = quantized(spec, source.tensors, *site)
            size += weight.nbytes + scales.nbytes
    else:
        tensors = [source.tensors[name] for site in layers for name in spec.site_tensors(*site)]
        size = sum(int(getattr(tensor, "nbytes", 0) or tensor.raw.nbytes) for tensor in tensors)
    return 8 * size / sum(math.prod(shapes[name]) for site in layers for name in spec.site_tensors(*site))


def ratios(rows: Sequence[Row]) -> Iterator[Row]:
    """Ours with about as many bits over llama.cpp's, by text."""
    for ours, theirs, metric in ((" 4 bits", "llama.cpp q4_k_m", OVER_Q4), (" native int8", "llama.cpp q8_0", OVER_Q8)):
        for other in rows:
            if other.system == theirs and other.metric == MEAN:
                for row in rows:
                    if ours in row.system and (row.workload, row.metric) == (other.workload, MEAN):
                        yield Row(row.workload, row.system, metric, row.value / other.value, "rel")
