"""What `cutset stream run` does with detections: flags, and the files, videos and brokers that they go to."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import output_folder, output_path
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.partition.graph import Graph
    from cutset.video.detection import Detections, OutputDecoder, ResultDecoder
    from cutset.video.result import Result

__all__ = [
    "DetectionOutputs",
    "add_detections",
    "add_outputs",
    "camera_names",
    "decoder_from",
    "own_limits",
    "result_decoder",
    "wanted_for",
]

HEADS = ("auto", "yolo", "ssd", "detr", "db", "none")
NO_FOLDER = (".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".ts", ".flv", ".wmv", ".gif", ".png", ".jpg", ".jpeg")
PASSWORD = "CUTSET_MQTT_PASSWORD"


def add_detections(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a detector's outputs are read."""
    group = parser.add_argument_group("detections", "of networks that are detectors")
    group.add_argument("--detector", choices=HEADS, default="auto", help="kind of its outputs (default: as they look)")
    group.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the classes, one a line; none: the model's"
    )
    group.add_argument("--only", metavar="A,B", help="classes that count; none: all")
    group.add_argument("--min-score", type=_share, metavar="S", help="least score (default 0.25; detr and db 0.5)")
    group.add_argument(
        "--max-overlap", type=_share, default=0.45, metavar="S", help="of boxes of one class (default 0.45)"
    )
    group.add_argument(
        "--anchors", type=Path, metavar="FILE", help="of an SSD: .npy (n, 4), middle and sides in shares"
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Flags that say where detections go."""
    group = parser.add_argument_group("what becomes of detections")
    group.add_argument("--detections", type=_lines_path, metavar="FILE", help="append a JSON line for each picture")
    group.add_argument(
        "--annotate", type=_annotate_path, metavar="PATH", help="draw boxes: a video (.mp4, .mkv), or a directory"
    )
    group.add_argument(
        "--annotate-as", choices=("jpg", "png"), default="jpg", help="files in a directory (default jpg)"
    )
    group.add_argument("--zones", type=Path, metavar="FILE", help="zones (YAML or TOML) whose events are noted")
    group.add_argument("--events", type=_lines_path, metavar="FILE", help="append a JSON line for each event in a zone")
    group.add_argument("--mqtt", metavar="URL", help=f"events to mqtt[s]://USER@HOST/TOPIC; its password: {PASSWORD}")
    group.add_argument("--mqtt-ca", type=Path, metavar="FILE", help="certificates that a broker is believed by")
    group.add_argument(
        "--camera",
        action="append",
        metavar="NAME[,rate=R][,deadline=S]",
        help="of each source, in order: its name, and its own --rate and --deadline; none: the source's name",
    )


def decoder_from(
    args: argparse.Namespace, graph: Graph, metadata: Mapping[str, str], needed: str = ""
) -> OutputDecoder | None:
    """The decoder that the flags and the network ask for. Raises ConfigError: `needed` says what for, where there is
    none."""
    from cutset.video.detection import HeadLimits, choose_decoder, facts_of, read_labels
    from cutset.video.detection.choosing import read_anchors

    limits = HeadLimits(args.min_score, args.max_overlap)
    labels = read_labels(args.labels) if args.labels else ()
    anchors = read_anchors(args.anchors) if args.anchors else None
    facts = facts_of(graph, metadata, labels, anchors)
    found = None if args.detector == "none" else choose_decoder(facts, limits, args.detector, metadata)
    if found is None and (needed or args.labels or args.only):
        what = needed or ("--labels" if args.labels else "--only")
        raise ConfigError(
            f"{what} needs a detector; the network gives {facts.shown()}"
            + ("" if args.detector == "none" else ": name the kind of its outputs with --detector")
        )
    return found


def wanted_for(args: argparse.Namespace) -> str:
    """The first flag that needs detections, or ""."""
    given = (name for name in ("detections", "annotate", "zones", "events", "mqtt") if getattr(args, name))
    return next((f"--{name}" for name in given), "")


def result_decoder(args: argparse.Namespace, decoder: OutputDecoder) -> ResultDecoder:
    """A decoder with the classes that count. Raises ConfigError for a class that the network hasn't."""
    from cutset.config import did_you_mean
    from cutset.video.detection import ResultDecoder

    only = [word.strip() for word in (args.only or "").split(",") if word.strip()]
    for word in only:
        if decoder.names and word not in decoder.names:
            raise ConfigError(f"--only: the network has no class {word[:60]!r}{did_you_mean(word[:60], decoder.names)}")
    return ResultDecoder(decoder, only)


def camera_names(names: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """A name for each source: those that were given, or the sources' own, numbered where they are alike.

    Raises ConfigError.
    """
    if given is not None:
        given = [text.split(",")[0] for text in given]
        if len(given) != len(names):
            raise ConfigError(f"--camera names {len(given)} cameras for {len(names)} sources")
        if len(set(given)) < len(given) or not all(0 < len(name) <= 100 and name.isprintable() for name in given):
            raise ConfigError("--camera: each source needs a name of its own, of up to 100 characters")
        return list(given)
    found: list[str] = []
    for name in names:
        count = 2
        unique = name
        while unique in found:
            unique, count = f"{name}#{count}", count + 1
        found.append(unique)
    return found


def own_limits(given: Sequence[str] | None) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Rates and deadlines of cameras, None where they have none of their own. Raises ConfigError."""
    rates: list[float | None] = []
    deadlines: list[float | None] = []
    for text in given or ():
        own: dict[str, float | None] = {"rate": None, "deadline": None}
        for word in text.split(",")[1:]:
            key, _, value = word.partition("=")
            try:
                own[key] = float(value) if key in own else -1.0
            except ValueError:
                own[key] = -1.0
            if not 0 < (own[key] or 0) < 1e9:
                raise ConfigError(f"--camera takes NAME[,rate=R][,deadline=S], numbers above 0, not {text[:80]!r}")
        rates.append(own["rate"])
        deadlines.append(own["deadline"])
    return tuple(rates), tuple(deadlines)


class DetectionOutputs:
    """Takes the results of a run; whatever can be refused is refused when it is made. Close it in the end."""

    def __init__(
        self,
        args: argparse.Namespace,
        decoder: ResultDecoder,
        cameras: Sequence[str],
        rates: Sequence[float | None],
        log: Callable[[str], None],
    ) -> None:
        """`rates`: pictures a second of each source, where that is known. Raises ConfigError, DeviceError."""
        from cutset.video.detection.annotate import AnnotatedFolder, safe_name
        from cutset.video.detection.lines import LineFile
        from cutset.video.zones.mqtt import MqttAddress, MqttPublisher
        from cutset.video.zones.watch_zones import ZoneWatch
        from cutset.video.zones.zone import read_zones

        self.decoder, self.cameras, self._log = decoder, cameras, log
        self._rates, self._annotate = rates, args.annotate
        self._writers: dict[int, Any] = {}
        self._clock = time.time() - time.monotonic()
        self.events = 0
        with contextlib.ExitStack() as parts:
            if (args.events or args.mqtt) and not args.zones:
                raise ConfigError(f"--{'events' if args.events else 'mqtt'} needs zones: --zones FILE")
            if args.mqtt_ca and not args.mqtt:
                raise ConfigError("--mqtt-ca is for --mqtt")
            zones = read_zones(args.zones, cameras, decoder.classes) if args.zones else []
            self._watches = [ZoneWatch(camera, zones) for camera in cameras] if args.zones else []
            self._lines = parts.enter_context(LineFile(args.detections)) if args.detections else None
            self._event_lines = parts.enter_context(LineFile(args.events)) if args.events else None
            self._publisher = None
            if args.mqtt:
                address = MqttAddress.parse(args.mqtt, os.environ.get(PASSWORD))
                self._publisher = parts.enter_context(MqttPublisher(address, ca=args.mqtt_ca, log=log))
            if args.annotate and not _is_video(args.annotate):
                names = [safe_name(camera) for camera in cameras]
                if len(set(names)) < len(names):  # what makes them differ can't stand in a file's name
                    names = [f"{name}-{i}" for i, name in enumerate(names)]
                for i, name in enumerate(names):
                    self._writers[i] = AnnotatedFolder(args.annotate, name, f".{args.annotate_as}")
            elif args.annotate:
                from cutset.video.detection.box_drawing import pillow

                pillow()
            parts.callback(self._close_writers)
            self._parts = parts.pop_all()

    def add(self, result: Result) -> Detections:
        """Writes what a picture's result says, and gives what was found. Raises ConfigError."""
        from cutset.video.detection.lines import detection_line

        found = self.decoder.read(result)
        camera = self.cameras[result.source]
        if self._lines is not None:
            self._lines.write(detection_line(camera, result, found, self._clock))
        if result.dropped:
            return found
        if self._watches:
            watch = self._watches[result.source]
            for event in watch.update(found, result.placement.native, result.time):
                self._event({**event, "picture": result.picture, "captured": round(result.captured + self._clock, 3)})
        if self._annotate:
            self._draw(result, found)
        return found

    def zones(self, source: int, size: tuple[int, int]) -> list[tuple[str, Any]]:
        """Names and corners, in pixels, of the zones of a source."""
        if not self._watches:
            return []
        return [(zone.name, zone.in_pixels(size)) for zone in self._watches[source].zones]

    def lines(self) -> list[str]:
        """What is said at the end."""
        return [self._publisher.line()] if self._publisher is not None else []

    def close(self) -> None:
        """Ends files and connections. A second call does nothing."""
        self._parts.close()

    def _event(self, event: dict[str, Any]) -> None:
        self.events += 1
        if self._event_lines is not None:
            self._event_lines.write(event)
        if self._publisher is not None:
            self._publisher.publish(event)
        if self._event_lines is None and self._publisher is None:
            who = f"{event['label']} {event['object']}"
            self._log(f"{event['camera']}: {who} {event['event']} {event['zone']} at {event['time']:.2f} s")

    def _draw(self, result: Result, found: Detections) -> None:
        from cutset.video.detection.annotate import AnnotatedVideo
        from cutset.video.detection.box_drawing import annotated

        pixels = result.original
        drawn, zones = found, self.zones(result.source, result.placement.native)
        if pixels.shape[2:] != result.placement.native:  # the source's own pixels aren't there: draw in what there is
            drawn = found.in_picture(result.placement)
            zones = [(name, result.placement.to_picture(corners)) for name, corners in zones]
        if result.source not in self._writers:
            path: Path = self._annotate
            if len(self.cameras) > 1:
                from cutset.video.detection.annotate import safe_name

                path = path.with_stem(f"{path.stem}-{result.source}-{safe_name(self.cameras[result.source])}")
            self._writers[result.source] = AnnotatedVideo(path, self._rates[result.source])
        self._writers[result.source].add(result.picture, result.time, annotated(pixels, drawn, zones))

    def _close_writers(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _is_video(path: Path) -> bool:
    from cutset.video.detection.annotate import VIDEO_ENDINGS

    return path.suffix.lower() in VIDEO_ENDINGS


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"a score or an overlap is a number from 0 to 1, not {text[:40]!r}")
    return value


def _lines_path(text: str) -> Path:
    """A file that lines are added to; "-" is stdout."""
    return output_path("/dev/stdout" if text == "-" else text)


def _annotate_path(text: str) -> Path:
    """A video's file, or a directory."""
    path = Path(text)
    if _is_video(path) and not path.is_dir():
        return output_path(text)
    if path.suffix.lower() in NO_FOLDER and not path.is_dir():
        raise ConfigError(f"--annotate: {text[:200]!r} is neither a video (.mp4, .mkv, .mov) nor a directory")
    return output_folder(text)
