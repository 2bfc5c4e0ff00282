"""Plays video files through a network one after another, on workers that stay, and writes what is in each."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from cutset.cli.stream_detections import decoder_from, result_decoder
from cutset.errors import ConfigError, CutsetError, GraphError, RequestError, SourceError

if TYPE_CHECKING:
    from cutset.batches.shard_folder import ShardFolder
    from cutset.cluster.launch.local import LocalWorkers
    from cutset.config import StreamSettings
    from cutset.partition.plan import Plan
    from cutset.stream import Stream
    from cutset.video.assembly import Assembly
    from cutset.video.detection import ResultDecoder
    from cutset.video.network_model import NetworkModel
    from cutset.video.result import Result

__all__ = ["FilePlayer", "UnusableFile", "result_facts"]

# Settings that change results, but for files.
FACTS = (
    *("size", "features", "seed", "pixels", "bgr", "fit", "limit"),
    *("threshold", "float16", "levels", "max_error", "delta_compute"),
)
FLAGS = ("detector", "only", "min_score", "max_overlap")


class UnusableFile(Exception):
    """A file that can't be played, or not to its end. `doubt`: it may be the network that can't play any; else the
    others can be played."""

    def __init__(self, why: str, doubt: CutsetError | None = None) -> None:
        super().__init__(why)
        self.doubt = doubt


class FilePlayer:
    """Plays files. Workers that are started here stay until it is closed; networks are exported and plans made once for
    each size of picture."""

    def __init__(
        self,
        args: argparse.Namespace,
        network: Any,
        settings: StreamSettings,
        log: Callable[[str], None],
    ) -> None:
        self._args, self._network, self._settings, self._log = args, network, settings, log
        self._local: LocalWorkers | None = None
        self._known: dict[tuple[int, ...], tuple[NetworkModel, Plan]] = {}
        self._stream: Stream | None = None
        self.stopped = False
        self.pictures = 0  # of all files

    def stop(self) -> None:
        """The file that plays is given up; from a signal handler too."""
        self.stopped = True
        if (stream := self._stream) is not None:
            stream.stop()

    def play(self, path: Path, output: Path, folder: ShardFolder) -> int:
        """Writes the lines of a file; `output` appears when all are there. How many there are, fewer and nothing
        written where it was stopped.

        Raises UnusableFile, CutsetError for what concerns other files too, OSError where `output` can't be written.
        """
        count = 0
        with contextlib.suppress(Stopped), folder.output(output) as file:
            with contextlib.closing(self.lines(path)) as lines:
                for line in lines:
                    file.write(line)
                    count += 1
            if self.stopped:
                raise Stopped
        return count

    def lines(self, path: Path) -> Generator[bytes]:
        """A line of JSON for each picture of a file, with its end; it ends early where it was stopped. Raises
        UnusableFile, and CutsetError for what concerns other files too."""
        count = 0
        with contextlib.ExitStack() as parts:
            try:
                assembly, known = self._assemble(path)
                parts.callback(assembly.close)
                decoder = self._decoder(assembly)
            except SourceError as error:
                raise UnusableFile(str(error)) from error
            except (GraphError, RequestError) as error:
                raise UnusableFile(str(error), None if self._known else error) from error
            try:
                for result in self._results(assembly, known):
                    line = picture_line(result, decoder, features=self._settings.features)
                    count += 1
                    self.pictures += 1
                    yield msgspec.json.encode(line) + b"\n"
                if not count and not self.stopped:
                    raise SourceError(f"{path} has no picture")
            except SourceError as error:
                raise UnusableFile(f"after {count} pictures: {error}" if count else str(error)) from error

    def close(self) -> None:
        """Ends the workers. A second call does nothing."""
        local, self._local = self._local, None
        if local is not None:
            local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assemble(self, path: Path) -> tuple[Assembly, bool]:
        """All that a stream of the file is made of, and whether its plan was made for another one."""
        from cutset.video.assembly import Given, assemble, options_of, workers_of
        from cutset.video.sources import open_source

        settings = self._settings
        probe = open_source(str(path), limit=1, size=settings.picture_size)
        size = tuple(probe.size)
        probe.close()
        workers = workers_of(settings)
        if isinstance(workers, int):
            self._local = self._local or self._start(workers)
            workers = self._local.addresses
        keys = self._local.keys if self._local is not None else None
        given = Given(workers=workers, options=options_of(settings), keys=keys)
        if (known := self._known.get(size)) is not None:
            model, plan = known
            with contextlib.suppress(ConfigError, GraphError):  # a plan may count on how a video is encoded
                usual = settings.scheduler in ("auto", "even") and not settings.plan
                again = replace(given, plan=plan if usual else None)
                return assemble(model, [str(path)], settings, again, log=self._quiet, on_source=self._log), True
        return assemble(self._network, [str(path)], settings, given, log=self._log), False

    def _start(self, count: int) -> LocalWorkers:
        from cutset.cluster.emulation import parse_speeds
        from cutset.cluster.launch.local import LocalWorkers
        from cutset.stream import worker_evidence

        settings = self._settings
        speeds = parse_speeds(settings.speed, count) if settings.speed else ()
        return LocalWorkers(count, threads=settings.threads, speeds=speeds, evidence=worker_evidence(settings))

    def _decoder(self, assembly: Assembly) -> ResultDecoder | None:
        """What makes detections of the outputs; None for a network that is no detector."""
        if assembly.settings.features and self._args.detector == "auto":
            return None
        decoder = decoder_from(self._args, assembly.model.graph, assembly.model.metadata)
        return None if decoder is None else result_decoder(self._args, decoder)

    def _results(self, assembly: Assembly, known: bool) -> Iterator[Result]:
        from cutset.stream import Stream

        if self._local is not None:
            self._local.stock(assembly.model)
        source = assembly.opened[0]
        with Stream.of(assembly, log=self._quiet if known else self._log) as stream:
            self._stream = stream
            try:
                if self.stopped:
                    return
                yield from stream
                if plans := stream.coordinator.plans:
                    self._known.setdefault(tuple(source.size), (assembly.model, plans[-1][1]))
            finally:
                self._stream = None

    def _quiet(self, line: str) -> None:
        """What was said of an earlier file needn't be said of each."""


class Stopped(Exception):
    """A signal came: what was written of a file is dropped."""


def result_facts(args: argparse.Namespace, settings: StreamSettings) -> dict[str, Any]:
    """What results depend on, beside the files: the network and all that is read with it, by their digests. Raises
    CutsetError."""
    from cutset.video.networks import is_onnx, open_file

    name = str(args.model)
    if is_onnx(name):
        facts = {"network": _digested(Path(name), open_file(name).files)}
    elif args.module is not None:
        code = Path(name.rpartition(":")[0])
        facts = {"network": f"{name.rpartition(':')[2]} of {_digested(code, [code])}"}
    else:
        facts = {"network": name}
    given = {"weights": settings.weights, "labels": args.labels, "anchors": args.anchors}
    facts |= {what: "none" if path is None else _digested(path, [path]) for what, path in given.items()}
    named = {name: getattr(settings, name) for name in FACTS} | {name: getattr(args, name) for name in FLAGS}
    return facts | {"settings": msgspec.json.decode(msgspec.json.encode(named, enc_hook=str))}


def _digested(path: Path, files: Sequence[Path]) -> str:
    from cutset.models.files.digests import digest_of_files

    return f"{path.name}, sha256 {digest_of_files(path, files)}"


def picture_line(result: Result, decoder: ResultDecoder | None, *, features: bool) -> dict[str, Any]:
    """What is in a picture: detections with boxes in pixels of the video, the likeliest classes, or of features shape,
    mean and share of zeros. Nothing in it depends on when it was computed."""
    from cutset.video.detection.lines import detection_records

    rows, columns = result.placement.native
    time = round(result.time, 4) if math.isfinite(result.time) else None
    line: dict[str, Any] = {"picture": result.picture, "time": time, "size": [columns, rows]}
    if result.dropped:
        return line | {"dropped": result.dropped}
    if decoder is not None:
        return line | {"detections": detection_records(decoder.read(result))}
    if features:
        output = result.output
        figures = {"mean": float(output.mean()), "zero": float((output == 0).mean())}
        return line | {"features": {"shape": list(output.shape)} | figures}
    return line | {"top": [{"class": number, "share": round(share, 6)} for number, share in result.top(5)]}
