"""`cutset stream batch`: what is in each of many video files, and goes on after whatever interrupts it."""

from __future__ import annotations

import argparse
import glob
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cutset.cli.batch_cluster import NOT_SETTINGS, add_cluster, cluster_from
from cutset.cli.batch_progress import BatchProgress
from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_settings, output_folder, stream_settings_from
from cutset.cli.output import log
from cutset.cli.stream_detections import add_detections
from cutset.cli.stream_network import add_network, network_from
from cutset.config import STREAM_OPTIONS
from cutset.errors import ConfigError, CutsetError

if TYPE_CHECKING:
    from cutset.batches.file_records import FileRecord, FileRecords
    from cutset.batches.shard_folder import ShardFolder
    from cutset.cli.stream_ray import FileOrder
    from cutset.cluster.launch.ray_pool import PoolOptions
    from cutset.config import StreamSettings

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "play many video files through a network, each once, whatever interrupts it"
DESCRIPTION = (
    "Plays files one after another through a network on several workers, and writes a file of JSON lines for each: a "
    "line a picture, with its detections where the network has them. files.jsonl says what has come of each file; one "
    "that can't be played is noted there and doesn't end the run. --resume goes on after an interruption, and takes in "
    "files that are new or have changed."
)
PARTS, LISTED = ".parts", "files.jsonl"
MOST_DOUBTED = 16  # files of which none can be played, after which the network is to blame


class Tally:
    """Files that are done."""

    def __init__(self) -> None:
        self.done = self.failed = 0


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="videos or pictures, or patterns as 'videos/*.mp4'")
    parser.add_argument(
        "-o", "--output", type=output_folder, required=True, metavar="DIR", help="where NAME.jsonl of each file goes"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR: files that are done stay so")
    add_settings(parser, *(name for name in STREAM_OPTIONS if name not in NOT_SETTINGS), options=STREAM_OPTIONS)
    add_cluster(parser, "each actor plays whole files on workers of its own: one, or as many as --workers says")
    add_detections(parser)


def run(args: argparse.Namespace) -> int:
    if args.module is not None and args.model is not None:  # what stands first is a file then
        args.files, args.model = [args.model, *args.files], None
    settings = stream_settings_from(args)
    cluster, settings = cluster_from(args, settings)
    files = matching(args.files)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    from cutset.batches.file_records import FileRecords
    from cutset.batches.shard_folder import ShardFolder
    from cutset.cli.stream_files import result_facts

    parts = args.output / PARTS
    if (parts / "manifest.json").exists() and not args.resume:
        raise ConfigError(f"{args.output} has results of a run: go on with --resume, or name another directory")
    if cluster is None:
        network = network_from(args, _log)
        facts = result_facts(args, settings)
    else:
        from cutset.cli.stream_ray import order_of

        order = order_of(args, settings)
        facts = dict(order.facts)
    args.output.mkdir(parents=True, exist_ok=True)
    with ShardFolder(parts, {"of": "videos"}) as folder, Interruption() as signals:
        folder.require(facts)
        work = _Work(args, files, FileRecords(folder), folder)
        try:
            if cluster is None:
                _here(work, network, settings, signals)
            else:
                _over_ray(work, order, cluster, signals)
            if not signals.number:
                work.end()
        except (CutsetError, OSError, MemoryError, Interrupted) as error:
            if folder.empty:  # so there is nothing to go on with
                folder.remove()
            elif not isinstance(error, ConfigError):
                _log(f"what was done is kept; go on with: {_again(args)}")
            raise
        finally:
            work.progress.clear()
        if signals.number:
            _log(f"{signals.name}: {work.tally.done} of {len(files)} files are done; go on with: {_again(args)}")
            return 128 + signals.number
        _log(f"{work.progress.summary('files')}, {work.pictures} pictures; {args.output / LISTED}")
        _write_list(args.output / LISTED, [work.found[path] for path in files if path in work.found])
    return 0


def matching(texts: Sequence[str]) -> list[Path]:
    """The files that are named, each once, those of a pattern in order of their names. Raises ConfigError."""
    found: dict[str, Path] = {}
    for text in texts:
        names = [text] if os.path.lexists(text) else sorted(glob.glob(text, recursive=True))
        files = [Path(name) for name in names if os.path.isfile(name)]
        if not files:
            what = "is no file" if os.path.lexists(text) else "names no file"
            raise ConfigError(f"{text[:200]!r} {what}: give video files, or a pattern in quotes as 'videos/*.mp4'")
        for path in files:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


class _Work:
    """The files of a run, and what has come of each."""

    def __init__(self, args: argparse.Namespace, files: list[Path], records: FileRecords, folder: ShardFolder) -> None:
        self.args, self.output, self.folder, self._records = args, args.output, folder, records
        self.pictures = 0  # of this run
        known = {path: record for path in files if (record := _known(records, path)) is not None}
        self.found: dict[Path, FileRecord] = known
        self.left = [path for path in files if path not in known]
        self.names = records.names(files)
        self._played = any(not one.error for one in known.values())
        self._doubted: list[tuple[Path, FileRecord, CutsetError]] = []
        self.tally = Tally()
        self.tally.done = len(known)
        self.tally.failed = sum(bool(one.error) for one in known.values())
        if known:
            _log(f"{len(known)} of {len(files)} files are done")
        self.progress = BatchProgress(len(files), self.tally, _log)

    def done(self, path: Path, record: FileRecord, doubt: CutsetError | None = None) -> None:
        """Notes what has come of a file, whose output is there. With a `doubt` it may be the network that is wrong:
        that is known once another file was played. Raises OSError, and the doubt where there are many of them."""
        if doubt is not None and not self._played:
            self._doubted.append((path, record, doubt))
            if len(self._doubted) >= MOST_DOUBTED:
                raise doubt
            return
        if not record.error and not self._played:
            self._played = True
            for one, its, _ in self._doubted:
                self._note(one, its)
        self._note(path, record)

    def unread(self, path: Path, error: OSError) -> None:
        """Notes a file that couldn't be read, for this run: --resume tries it again."""
        from cutset.batches.file_records import unread_record

        self.found[path] = record = unread_record(path, error)
        _log(f"{path}: {record.error}")
        self.tally.done += 1
        self.tally.failed += 1

    def end(self) -> None:
        """Raises what speaks against the network, where no file was played."""
        if self._doubted and not self._played:
            raise self._doubted[0][2]

    def _note(self, path: Path, record: FileRecord) -> None:
        if record.error:
            _log(f"{path}: {record.error}")
        if not self._records.add(record):
            return
        self.found[path] = record
        self.pictures += record.items
        self.tally.done += 1
        self.tally.failed += bool(record.error)
        self.progress.changed()


def _here(work: _Work, network: Any, settings: StreamSettings, signals: Interruption) -> None:
    """Plays what is left on workers of this process, one file after the other, until a signal."""
    from cutset.batches.file_records import begin_record
    from cutset.cli.stream_files import FilePlayer, UnusableFile

    with FilePlayer(work.args, network, settings, _log) as player:
        signals.on_signal(player.stop)
        for path in work.left:
            try:
                record = begin_record(path)
            except OSError as error:
                work.unread(path, error)
                continue
            doubt = None
            try:
                record.items = player.play(path, work.output / work.names[path], work.folder)
                record.output = work.names[path]
            except UnusableFile as error:
                record.error, doubt = str(error), error.doubt
            if player.stopped:
                return
            work.done(path, record, doubt)


def _over_ray(work: _Work, order: FileOrder, cluster: PoolOptions, signals: Interruption) -> None:
    """Plays what is left on actors of a cluster, each a file at a time, until a signal."""
    from cutset.cli.stream_ray import RayFiles

    files = RayFiles(order, work.folder, work.done, _log, work.unread)
    signals.on_signal(files.stop)
    files.run(cluster, [(path, work.output / work.names[path]) for path in work.left], work.progress.begin)


def _known(records: FileRecords, path: Path) -> FileRecord | None:
    try:
        return records.find(path)
    except OSError:  # it has gone meanwhile, or can't be read: whoever plays it says so
        return None


def _log(line: str) -> None:
    log(f"stream: {line}")


def _again(args: argparse.Namespace) -> str:
    return shlex.join([*(one for one in args.command_line if one != "--resume"), "--resume"])


def _write_list(path: Path, found: Sequence[FileRecord]) -> None:
    from cutset.files import write_atomically

    write_atomically(path, b"".join(msgspec.json.encode(_listed(one)) + b"\n" for one in found))


def _listed(record: FileRecord) -> dict[str, Any]:
    from cutset.batches.file_records import as_written

    one = as_written(record)
    return {
        "file": one.file,
        "sha256": one.sha256 or None,
        "output": one.output or None,
        "pictures": one.items,
        "error": one.error or None,
    }
