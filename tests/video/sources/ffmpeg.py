"""FFmpeg's own program: it makes small inputs, and says what pictures there are in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

# The arithmetic of Cutset's conversion to RGB.
EXACT = "bicubic+accurate_rnd+bitexact+full_chroma_int"


def ffmpeg(*arguments: object) -> bytes:
    """Runs it and returns its standard output."""
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def make(path: Path, *encoding: object, size: str = "64x48", pictures: int = 20, rate: int = 10) -> Path:
    """A video of moving pictures with some noise, so that none equals another; `encoding` are FFmpeg's arguments."""
    source = f"testsrc2=size={size}:rate={rate},noise=alls=12:allf=t:all_seed=7"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", pictures, *encoding, path)
    return path


def rgb24(
    path: Path, size: tuple[int, int], *, turned: bool = False, sited: bool = True, to: str = "iw:ih"
) -> np.ndarray:
    """Every picture (pictures, 3, rows, columns) as FFmpeg has them, scaled to `to`.

    H.264, HEVC and MPEG-4 say that a colour is that of the left one of two pixels (`sited`). FFmpeg's libraries heed
    that; its program does only from version 7 on, before it has to be told.
    """
    rotation = () if turned else ("-noautorotate",)
    scale = f"scale={to}:flags={EXACT}" + (":in_h_chr_pos=0" if sited else "") + ":interl=-1"
    raw = ("-map", "0:V:0", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    data = ffmpeg(*rotation, "-i", path, "-sws_flags", EXACT, "-vf", scale, *raw)
    return np.frombuffer(data, np.uint8).reshape(-1, *size, 3).transpose(0, 3, 1, 2)
