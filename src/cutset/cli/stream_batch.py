"""`cutset stream batch`: what is in each of many video files, and goes on after whatever interrupts it."""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import shlex
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cutset.cli.batch_progress import BatchProgress
from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_settings, output_folder, stream_settings_from
from cutset.cli.output import log
from cutset.cli.stream_detections import add_detections
from cutset.cli.stream_network import add_network, network_from
from cutset.config import STREAM_OPTIONS
from cutset.errors import ConfigError, CutsetError, GraphError, RequestError

if TYPE_CHECKING:
    from cutset.batches.file_records import FileRecord, FileRecords
    from cutset.cli.stream_files import FilePlayer
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
MOST_SUSPECTS = 3  # files, before any was played, for which a network can't be used: then it is the network
NOT_HERE = ("ray", "place", "insecure_ray")  # workers stay from file to file, so they are started here
# Settings that change results.
FACTS = (
    *("size", "features", "weights", "seed", "pixels", "bgr", "fit", "limit"),
    *("threshold", "float16", "levels", "max_error", "delta_compute"),
)
FLAGS = ("detector", "only", "min_score", "max_overlap")


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
    add_settings(parser, *(name for name in STREAM_OPTIONS if name not in NOT_HERE), options=STREAM_OPTIONS)
    add_detections(parser)


def run(args: argparse.Namespace) -> int:
    if args.module is not None and args.model is not None:  # what stands first is a file then
        args.files, args.model = [args.model, *args.files], None
    settings = stream_settings_from(args)
    files = matching(args.files)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    from cutset.batches.file_records import FileRecords
    from cutset.batches.shard_folder import ShardFolder
    from cutset.cli.stream_files import FilePlayer

    network = network_from(args, _log)
    parts = args.output / PARTS
    if (parts / "manifest.json").exists() and not args.resume:
        raise ConfigError(f"{args.output} has results of a run: go on with --resume, or name another directory")
    args.output.mkdir(parents=True, exist_ok=True)
    with ShardFolder(parts, {"of": "videos"}) as folder, Interruption() as signals:
        folder.require(_facts(args, settings))
        records = FileRecords(folder)
        try:
            with FilePlayer(args, network, settings, folder, _log) as player:
                signals.on_signal(player.stop)
                found = _play_all(args, files, records, player)
        except (CutsetError, OSError, MemoryError, Interrupted) as error:
            if folder.empty:  # so there is nothing to go on with
                folder.remove()
            elif not isinstance(error, ConfigError):
                _log(f"what was done is kept; go on with: {_again(args)}")
            raise
        if signals.number:
            _log(f"{signals.name}: {len(found)} of {len(files)} files are done; go on with: {_again(args)}")
            return 128 + signals.number
        _write_list(args.output / LISTED, found)
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


def _play_all(
    args: argparse.Namespace, files: list[Path], records: FileRecords, player: FilePlayer
) -> list[FileRecord]:
    """The record of each file, of fewer where it was stopped."""
    tally = Tally()
    found = [_known(records, path) for path in files]
    tally.done = sum(one is not None for one in found)
    tally.failed = sum(one is not None and bool(one.error) for one in found)
    if tally.done:
        _log(f"{tally.done} of {len(files)} files are done")
    player.proven = tally.done > tally.failed
    progress = BatchProgress(len(files), tally, _log)
    waiting = deque(number for number, one in enumerate(found) if one is None)
    suspects: list[CutsetError] = []  # of files for which the network couldn't be used: it may be the network
    while waiting and not player.stopped:
        number = waiting.popleft()
        try:
            found[number] = record = _play(args, files[number], records, player)
        except (GraphError, RequestError) as error:  # nothing has been played until now
            suspects.append(error)
            if len(suspects) >= MOST_SUSPECTS or not waiting:
                raise suspects[0] from None
            waiting.append(number)
            continue
        if record is not None:
            tally.done += 1
            tally.failed += bool(record.error)
            progress.changed()
    progress.clear()
    if not player.stopped:
        _log(f"{progress.summary('files')}, {player.pictures} pictures; {args.output / LISTED}")
    return [one for one in found if one is not None]


def _play(args: argparse.Namespace, path: Path, records: FileRecords, player: FilePlayer) -> FileRecord | None:
    """The record of one file, which is kept; None where it was stopped. Raises GraphError or RequestError where it may
    be the network that can't be used."""
    from cutset.batches.file_records import begin_record, unread_record
    from cutset.cli.stream_files import UnusableFile

    try:
        record = begin_record(path)
    except OSError as error:  # --resume tries it again
        unread = unread_record(path, error)
        _log(f"{path}: {unread.error}")
        return unread
    name = records.name_for(path)
    try:
        record.items = player.play(path, args.output / name)
        record.output = name
    except UnusableFile as error:
        record.error = str(error)
    if player.stopped:
        return None
    if record.error:
        _log(f"{path}: {record.error}")
    records.add(record)
    return record


def _known(records: FileRecords, path: Path) -> FileRecord | None:
    try:
        return records.find(path)
    except OSError:  # it has gone meanwhile, or can't be read: whoever plays it says so
        return None


def _log(line: str) -> None:
    log(f"stream: {line}")


def _again(args: argparse.Namespace) -> str:
    return shlex.join([*(one for one in args.command_line if one != "--resume"), "--resume"])


def _facts(args: argparse.Namespace, settings: StreamSettings) -> dict[str, Any]:
    """What results depend on, beside the files."""
    named = {name: getattr(settings, name) for name in FACTS} | {name: getattr(args, name) for name in FLAGS}
    for name in ("labels", "anchors"):
        if (path := getattr(args, name)) is not None:
            named[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    network = str(args.model)
    if os.path.isfile(network):
        from cutset.batches.file_records import digest_of

        network = digest_of(Path(network))
    return {"network": network, "settings": msgspec.json.decode(msgspec.json.encode(named, enc_hook=str))}


def _write_list(path: Path, found: Sequence[FileRecord]) -> None:
    from cutset.files import write_atomically

    write_atomically(path, b"".join(msgspec.json.encode(_listed(one)) + b"\n" for one in found))


def _listed(one: FileRecord) -> dict[str, Any]:
    return {
        "file": one.file,
        "sha256": one.sha256 or None,
        "output": one.output or None,
        "pictures": one.items,
        "error": one.error or None,
    }
