"""Sends a video to an RTSP server: `publish.py URL`. A process of its own, since both ends of one can't share PyAV."""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).parents[2]))

from video.sources.clips import frame_of, pictures

PICTURES = 12


def main(url: str) -> None:
    for _ in range(200):  # until somebody listens
        try:
            sink = av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"})
            publish(sink)
        except (av.FFmpegError, OSError):
            time.sleep(0.05)
        else:
            return


def publish(sink: av.container.OutputContainer) -> None:
    stream = sink.add_stream("libx264", rate=25, options={"tune": "zerolatency", "preset": "ultrafast"})
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    stream.codec_context.gop_size = 4
    stream.codec_context.time_base = Fraction(1, 25)
    for i, picture in enumerate(pictures(PICTURES)):
        frame = frame_of(picture)
        frame.pts = i
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode(None))
    sink.close()


if __name__ == "__main__":
    main(sys.argv[1])
