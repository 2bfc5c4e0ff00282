"""A small RTSP server for tests: `rtsp_server.py PORT ROWSxCOLUMNS [PICTURES]`, endless unless told how many to send.

It sends H.264 over the connection that asks for it, 25 pictures a second, a key frame every fifth. Any number of
clients, each from the first picture on. With a third word `recording` it says how long the video is.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
import time
from fractions import Fraction
from itertools import count
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).parents[2]))

from cutset.video.sources import GeneratedSource
from video.sources.clips import frame_of

RATE = 25
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n{range}m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
SDP += "a=fmtp:96 packetization-mode=1\r\na=control:track\r\n"


def units(size):
    """The units of each picture."""
    context = av.CodecContext.create("libx264", "w")
    context.height, context.width, context.pix_fmt = *size, "yuv420p"
    context.time_base, context.framerate, context.gop_size, context.thread_count = Fraction(1, RATE), RATE, 5, 1
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    source = GeneratedSource(size, seed=1, shapes=4, noise=0.02)
    for i in count():
        frame = frame_of(source.pixels(i))
        frame.pts = i
        for packet in context.encode(frame):
            yield [unit for unit in re.split(rb"\0\0\0?\x01", bytes(packet)) if unit]


def serve(client: socket.socket, size, most, recording) -> None:
    stream = client.makefile("rb")
    while True:
        lines = []
        while line := stream.readline().strip():
            lines.append(line.decode())
        if not lines:
            return
        method = lines[0].split()[0]
        number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = SDP.format(range=f"a=range:npt=0-{most / RATE}\r\n" if recording else "")
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}\r\n{body}".encode())
        if method == "PLAY":
            break
    sent = 0
    start = time.monotonic()
    for i, parts in enumerate(units(size)):
        if i == most:
            break
        time.sleep(max(0, start + i / RATE - time.monotonic()))
        for k, unit in enumerate(parts):
            marker = 0x80 if k == len(parts) - 1 else 0
            packet = struct.pack(">BBHII", 0x80, marker | 96, sent & 0xFFFF, i * 90000 // RATE, 1) + unit
            client.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
            sent += 1


def handle(client: socket.socket, *rest) -> None:
    try:
        serve(client, *rest)
    except OSError:
        pass
    finally:
        client.close()


def main(port: str, size: str, most: str = "0", recording: str = "") -> None:
    rows, columns = map(int, size.split("x"))
    with socket.create_server(("127.0.0.1", int(port))) as server:
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            arguments = (client, (rows, columns), int(most) or None, recording)
            threading.Thread(target=handle, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
