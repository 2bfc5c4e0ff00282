"""What objects do in zones: they enter, stay and leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutset.video.detection.boxes import Detections
from cutset.video.zones.tracker import TrackedObject, Tracker
from cutset.video.zones.zone import Zone

__all__ = ["ZoneWatch"]


@dataclass
class _Visit:
    """What one object does in one zone."""

    inside: bool = False
    streak: int = 0  # pictures in a row that say otherwise
    first: float = 0.0  # the time of the first of them
    entered: float = 0.0
    stayed: bool = False


class ZoneWatch:
    """Follows the objects of one camera through its zones. An object is where the middle of its box's lower edge is.

    An object that is gone inside of a zone has left it when it was last seen. Times are those of the pictures in their
    source: a file that is played quickly has the events that it has when it is played slowly.
    """

    def __init__(self, camera: str, zones: Sequence[Zone], tracker: Tracker | None = None) -> None:
        self.camera = camera
        self.zones = [zone for zone in zones if zone.watches(camera)]
        self._tracker = tracker or Tracker()
        self._visits: dict[tuple[int, str], _Visit] = {}

    def update(self, found: Detections, size: tuple[int, int], time: float) -> list[dict[str, Any]]:
        """The events of the next picture, of `size` rows and columns. A picture that was dropped isn't given: what it
        would have shown isn't known."""
        events: list[dict[str, Any]] = []
        here, gone = self._tracker.update(found, time)
        for one in here:
            foot = (float(one.box[0] + one.box[2]) / 2, float(one.box[3]))
            for zone in self.zones:
                if zone.labels and one.label not in zone.labels:
                    continue
                visit = self._visits.setdefault((one.number, zone.name), _Visit())
                events += self._step(visit, one, zone, zone.holds(foot, size), time)
        for one in gone:
            for zone in self.zones:
                old = self._visits.pop((one.number, zone.name), None)
                if old is not None and old.inside:
                    events.append(self._event("leaves", one, zone, one.seen, one.seen - old.entered))
        return events

    def _step(self, visit: _Visit, one: TrackedObject, zone: Zone, inside: bool, time: float) -> list[dict[str, Any]]:
        events = []
        if inside == visit.inside:
            visit.streak = 0
        else:
            if not visit.streak:
                visit.first = time
            visit.streak += 1
            if visit.streak >= zone.inertia:
                visit.inside, visit.streak = inside, 0
                if inside:
                    visit.entered, visit.stayed = visit.first, False
                    events.append(self._event("enters", one, zone, visit.first, None))
                else:
                    events.append(self._event("leaves", one, zone, visit.first, visit.first - visit.entered))
        if (
            visit.inside
            and inside
            and not visit.stayed
            and zone.stays is not None
            and time - visit.entered >= zone.stays
        ):
            visit.stayed = True
            events.append(self._event("stays", one, zone, time, time - visit.entered))
        return events

    def _event(self, what: str, one: TrackedObject, zone: Zone, time: float, seconds: float | None) -> dict[str, Any]:
        """An event; `seconds` is how long the object was inside."""
        event: dict[str, Any] = {
            "event": what,
            "zone": zone.name,
            "camera": self.camera,
            "object": one.number,
            "label": one.label,
            "score": round(one.score, 4),
            "box": [round(float(side), 2) for side in one.box],
            "time": round(time, 4),
        }
        return event if seconds is None else event | {"seconds": round(seconds, 4)}
