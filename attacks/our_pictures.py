"""The same attacks on private pictures as they are: the client's convolutions, an accelerator, a man in the middle."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attacks.careless import P
from attacks.pictures import CHANNELS, FRAMES, SIDE, make_scene, shifts_that_show
from attacks.proxy import Middle, Proxy, Sent
from attacks.setting import Array, Outcome
from attacks.statistics import failures, repeats
from cutset.config import load_settings
from cutset.errors import ConfigError, CutsetError, IntegrityError
from cutset.kernels.convolution import ConvolutionShape
from cutset.offload.accelerator.loading import open_picture_accelerator
from cutset.offload.client.picture_offload import open_picture_offload
from cutset.offload.convolutions import NetworkProduct
from cutset.offload.messages import Multiply, Product
from cutset.offload.modes import mode_named

__all__ = ["Watched", "watch"]

SHAPE = ConvolutionShape(SIDE, SIDE, 1, CHANNELS, (3, 3), padding=(1, 1, 1, 1))


@dataclass(frozen=True, slots=True)
class Watched:
    """What a camera's frames look like to who convolves them, and what the client got."""

    sent: list[Array]  # (side, side) of residues, a message each
    arrays: list[Array]  # as they came
    answers: list[Array]
    error: CutsetError | None
    after: int  # messages that were sent after the first error


def watch(frames: Array, middle: Middle | None = None, mode: str = "masked+verified") -> Watched:
    """Sends frames (count, side, side) through the man in the middle."""
    middle, weight = middle or Middle(), make_scene().weight
    given = [
        NetworkProduct(
            0,
            "conv",
            SHAPE,
            np.ascontiguousarray(weight.transpose(2, 0, 1).reshape(CHANNELS, 9).astype(np.int8)),
            np.ones(CHANNELS, np.float32),
            12,
        )
    ]
    served = open_picture_accelerator(given, f"inproc://pictures-{id(middle)}", load_settings({"threads": 1}))
    stop = threading.Event()
    thread = threading.Thread(target=served.serve, args=(stop.is_set,), daemon=True)
    thread.start()
    proxy = Proxy(served.listener.address, middle)
    answers, error, after = list[Array](), None, 0
    try:
        settings = load_settings({"offload": proxy.address, "threads": 1, "offload_timeout": 5, "pads": "inline"})
        offload = open_picture_offload(given, settings, mode_named(mode))
        try:
            for frame in frames:
                answers.append(offload.multiply(0, frame.reshape(-1).astype(np.int16), 1.0))
        except CutsetError as raised:
            error, before = raised, len(middle.wire)
            try:
                offload.multiply(0, frames[0].reshape(-1).astype(np.int16), 1.0)
            except CutsetError:
                after = len(middle.wire) - before
        finally:
            offload.close()
    finally:
        proxy.close()
        stop.set()
        thread.join(10)
        served.close()
    asked = [one for one in middle.wire if isinstance(one.message, Multiply)]
    maps = [one.arrays[0].reshape(SIDE, SIDE) for one in asked if one.arrays[0].size == SIDE * SIDE]
    return Watched(maps, [array for one in asked for array in one.arrays], answers, error, after)


@functools.cache
def scene() -> Watched:
    """The scene's frames, twice."""
    frames = make_scene().frames
    return watch(np.concatenate([frames, frames]))


def masks_used_again() -> Outcome:
    """See attacks.pictures."""
    found = scene().sent
    apart = [
        ((b.astype(np.int64) - a) % P).astype(np.uint32) for a, b in zip(found[:FRAMES], found[FRAMES:], strict=True)
    ]
    same, allowed = repeats(found[:FRAMES], found[FRAMES:])
    held = not failures(apart) and not failures(found) and same <= allowed
    return Outcome(not held, f"the same {FRAMES} frames twice: {same} residues the same, differences are uniform")


def masks_shifted() -> Outcome:
    """See attacks.pictures."""
    found = scene().sent
    shown = [shifts_that_show(found[i], found[i + 1]) for i in range(6)]
    return Outcome(any(shown), f"none of {SIDE * SIDE} shifts of a message leaves pixels of the next")


def mean_of_frames() -> Outcome:
    """See attacks.pictures."""
    still = make_scene().frames[0]
    found = watch(np.repeat(still[None], 300, axis=0)).sent
    mean = np.mean([one.astype(np.float64) for one in found], axis=0)
    right = float(np.corrcoef(mean.reshape(-1), still.reshape(-1))[0, 1])
    # Of 256 places that have nothing to do with each other, a correlation as large comes once in ten million runs.
    return Outcome(
        abs(right) > 0.33 or bool(failures(found)), f"300 frames: uniform, their mean says nothing ({right:+.2f})"
    )


def delta_pattern() -> Outcome:
    """See attacks.pictures."""
    found, still = scene(), watch(np.repeat(make_scene().frames[:1], 4, axis=0))
    shapes = {(array.shape, array.dtype.name) for array in (*found.arrays, *still.arrays)}
    refused = []
    for flags in (["--delta-compute"], ["--mode", "delta"]):
        try:
            _run("any", "--source", "generated", "--private", "ipc:///nobody", *flags)
        except ConfigError as error:
            refused.append("secret" in str(error))
    held = shapes == {((1, SIDE * SIDE), "uint32")} and refused == [True, True]
    return Outcome(not held, "every frame is one message of all positions, whatever moved; deltas are refused")


def _run(*args: str) -> None:
    import argparse

    from cutset.cli import stream_run

    parser = argparse.ArgumentParser()
    stream_run.configure(parser)
    stream_run.run(parser.parse_args(args))


class _Lies(Middle):
    """Changes one answer, well within the run."""

    def __init__(self, lie: Callable[[Array], Array]) -> None:
        super().__init__()
        self.lie, self.seen = lie, 0

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if isinstance(answer.message, Product):
            self.seen += 1
            if self.seen == 3:
                reply = self.lie(answer.arrays[0].reshape(SIDE, SIDE, CHANNELS).astype(np.int64)) % P
                return [Sent(answer.message, (reply.reshape(1, -1).astype(np.uint32),))]
        return [answer]


def _caught(lie: Callable[[Array], Array]) -> Outcome:
    found = watch(make_scene().frames[:6], _Lies(lie))
    held = isinstance(found.error, IntegrityError) and len(found.answers) == 2 and not found.after
    words = "no error" if found.error is None else str(found.error).partition(" gave ")[2].partition(".")[0]
    return Outcome(not held, f"{type(found.error).__name__}: {words}")


def _adding(*errors: tuple[tuple[int, int, int], int]) -> Callable[[Array], Array]:
    def lie(reply: Array) -> Array:
        for at, error in errors:
            reply[at] += error
        return reply

    return lie


def compensated_lie() -> Outcome:
    """See attacks.pictures."""
    across = _caught(_adding(((4, 7, 0), 9), ((4, 7, 3), -9)))
    apart = _caught(_adding(((4, 7, 0), 9), ((5, 7, 0), -9)))
    return across if across.succeeded else apart


def one_pixel() -> Outcome:
    """See attacks.pictures."""
    places = [(0, 0, 0), (3, 3, 1), (SIDE - 1, SIDE - 1, CHANNELS - 1)]
    outcomes = [_caught(_adding((at, error))) for at in places for error in (1, 2**30, P - 1)]
    return next((one for one in outcomes if one.succeeded), outcomes[0])
