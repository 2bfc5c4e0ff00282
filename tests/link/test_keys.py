"""Keys: their files, and that over tcp nobody talks without the right ones."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from cutset.cli import main
from cutset.errors import ConfigError, LinkClosed, LinkError
from cutset.link import Limits, Timeouts, connect, listen
from cutset.link.channel import joined
from cutset.link.frames import encode
from cutset.link.keys import Keys, load_allowed, load_keys, load_public, new_keys, save_keys
from cutset.link.zeromq import PIECE

QUICK = Timeouts(connect=1, send=1, recv=1)


def test_a_pair_is_saved_and_loaded(tmp_path: Path) -> None:
    keys = new_keys()
    secret, public = save_keys(keys, "edge", tmp_path / "deep")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert keys.secret.hex() not in public.read_text()
    assert load_keys(secret) == keys
    assert load_public(public) == load_public(secret) == load_public(keys.public.hex()) == keys.public
    with pytest.raises(ConfigError, match="never overwritten"):
        save_keys(new_keys(), "edge", tmp_path / "deep")
    with pytest.raises(ConfigError, match="name"):
        save_keys(keys, "../edge", tmp_path)


def test_a_pair_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from cutset.errors import ConfigError
from cutset.link.keys import new_keys, save_keys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    save_keys(new_keys(), "edge", Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""
    for room in ("0", "100"):  # bytes: for none of it, and for the first half of the secret
        done = subprocess.run([sys.executable, "-c", code, tmp_path, room], capture_output=True, text=True, check=True)
        assert f"{tmp_path}/edge.key can't be written: File too large" in done.stdout
        assert not list(tmp_path.iterdir())


def test_secrets_aren_t_shown() -> None:
    keys = new_keys()
    assert keys.secret.hex() not in repr(keys)
    assert repr(keys.secret) not in repr(keys)


def test_a_pair_is_one_of_zeromq() -> None:
    keys = new_keys()
    from zmq.utils import z85

    assert zmq.curve_public(z85.encode(keys.secret)) == z85.encode(keys.public)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret, _ = save_keys(new_keys(), "edge", tmp_path)
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_keys(secret)


@pytest.mark.parametrize("text", ["", "public 00", "public {0}\nsecret {0}", "secret {0}", "\xff"])
def test_damaged_key_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.key"
    path.write_text(text.format("7" * 64), encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        load_keys(path)


def test_lists_of_those_that_may_connect(tmp_path: Path) -> None:
    pairs = [new_keys() for _ in range(3)]
    for number, keys in enumerate(pairs):
        save_keys(keys, f"k{number}", tmp_path)
    assert load_allowed(tmp_path) == {keys.public for keys in pairs}
    listed = tmp_path / "list"
    listed.write_text(f"# edge\n{pairs[0].public.hex()} edge one\n\n{pairs[1].public.hex()}  # two\n")
    assert load_allowed(listed) == {pairs[0].public, pairs[1].public}
    with pytest.raises(ConfigError, match="2 public keys"):
        load_public(listed)
    listed.write_text("# nobody\n")
    with pytest.raises(ConfigError, match="nobody could connect"):
        load_allowed(listed)
    listed.write_text(f"secret {pairs[0].secret.hex()}")
    with pytest.raises(ConfigError, match="line 1"):
        load_allowed(listed)
    with pytest.raises(ConfigError):
        load_allowed(tmp_path / "missing")


def test_who_is_at_the_other_end_is_proven() -> None:
    server, client = new_keys(), new_keys()
    listener = listen("tcp://127.0.0.1:0", keys=server, allow={client.public})
    link = connect(listener.address, keys=client.expecting(server.public), timeouts=QUICK)
    link.send(b"x")
    found = listener.recv(2)
    assert found is not None
    assert found[0].peer == client.public.hex()
    assert link.peer == server.public.hex()
    link.close()
    listener.close()


def test_the_wrong_keys_get_nothing() -> None:
    server, client, stranger = new_keys(), new_keys(), new_keys()
    listener = listen("tcp://127.0.0.1:0", keys=server, allow={client.public})
    with pytest.raises(LinkError, match="refused this key"):
        connect(listener.address, keys=stranger.expecting(server.public), timeouts=QUICK)
    with pytest.raises(LinkError):
        connect(listener.address, keys=client.expecting(stranger.public), timeouts=QUICK)
    # Someone who knows an allowed public key, but not its secret.
    with pytest.raises(LinkError):
        connect(listener.address, keys=Keys(client.public, stranger.secret, server.public), timeouts=QUICK)
    assert listener.recv(0.1) is None
    with pytest.raises(LinkError, match="can't listen"):
        listen(listener.address, keys=server, allow={client.public})
    listener.close()


def test_plain_zeromq_gets_nothing() -> None:
    server, client = new_keys(), new_keys()
    listener = listen("tcp://127.0.0.1:0", keys=server, allow={client.public})
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(listener.address)
        sock.send(b"hello")
        assert listener.recv(0.3) is None
        assert not sock.poll(0)
    listener.close()


def test_tcp_without_keys_is_refused() -> None:
    keys = new_keys()
    for missing in ({}, {"keys": keys}, {"keys": keys, "allow": ()}, {"allow": {keys.public}}):
        with pytest.raises(ConfigError, match="tcp needs keys"):
            listen("tcp://127.0.0.1:0", **missing)
    for given in (None, keys):
        with pytest.raises(ConfigError, match="tcp needs keys"):
            connect("tcp://127.0.0.1:9", keys=given)
    with pytest.raises(LinkClosed):
        connect("tcp://127.0.0.1:9", keys=keys.expecting(keys.public), timeouts=Timeouts(connect=0.2))


def test_a_listener_refuses_messages_that_aren_t_frames(tmp_path: Path) -> None:
    listener = listen(f"ipc://{tmp_path}/s")
    with zmq.Context() as context:
        for parts in ([b"x" * 100], [b"a", b"b"], [b"a"] * 50, [b"CUT\x01" + b"\xff" * 60]):
            with context.socket(zmq.DEALER) as sock:
                sock.linger = 500
                sock.connect(listener.address)
                sock.send_multipart(parts)
                assert listener.recv(0.2) is None
        link = connect(listener.address)
        link.send(b"fine")
        assert (listener.recv(2) or (None, None))[1] is not None
        link.close()
    listener.close()


@pytest.mark.parametrize("nbytes", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_over_tcp_no_part_takes_long_to_encrypt(nbytes: int) -> None:
    listener, sock, context = raw_client()
    frame, _ = encode(b"size", [np.arange(nbytes - 128, dtype=np.uint8)], 1 << 30)
    data = joined(frame)
    sock.send_multipart([data[at : at + PIECE] for at in range(0, len(data), PIECE)])
    got = listener.recv(5)
    assert got is not None
    link, came = got
    np.testing.assert_array_equal(came.arrays[0], np.arange(nbytes - 128, dtype=np.uint8))
    link.send(b"back", list(came.arrays))
    parts = sock.recv_multipart()
    assert b"".join(parts) == data.replace(b"size", b"back")
    assert [len(part) for part in parts] == [min(PIECE, len(data) - at) for at in range(0, len(data), PIECE)]
    sock.close(0)
    context.term()
    listener.close()


@pytest.mark.parametrize(
    "sizes", [(10, PIECE), (PIECE - 1, PIECE), (PIECE, 0), (PIECE, PIECE, 0), (0, PIECE), (PIECE,) * 9, (1,) * 5000]
)
def test_parts_that_no_frame_has_end_the_link(sizes: tuple[int, ...]) -> None:
    listener, sock, context = raw_client(Limits(frame=8 * PIECE))
    frame, _ = encode(b"", [np.zeros(sum(sizes), np.uint8)], 1 << 30)
    data, at, parts = joined(frame), 0, []
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    sock.send_multipart(parts)
    until = time.monotonic() + 2
    while not sock.poll(0) and time.monotonic() < until:
        assert listener.recv(0.05) is None
    assert sock.recv_multipart() == [b""]  # the link is over
    sock.close(0)
    context.term()
    listener.close()


def test_a_part_beyond_the_limit_cuts_the_connection() -> None:
    listener, sock, context = raw_client()
    monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    sock.send(bytes(PIECE + 100))
    assert listener.recv(0.3) is None
    assert monitor.poll(2000)
    sock.disable_monitor()
    monitor.close(0)
    sock.close(0)
    context.term()
    listener.close()


def raw_client(limits: Limits | None = None) -> tuple[Any, Any, Any]:
    """A listener over tcp, and a socket with an allowed key that says what it likes."""
    server, client = new_keys(), new_keys()
    listener = listen("tcp://127.0.0.1:0", keys=server, allow={client.public}, limits=limits or Limits())
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = server.public, client.public, client.secret
    sock.rcvtimeo = 5000
    sock.connect(listener.address)
    return listener, sock, context


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "edge", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    keys = load_keys(tmp_path / "edge.key")
    assert keys.public.hex() in out
    assert keys.secret.hex() not in out
    for file in ("edge.key", "edge.pub"):
        assert main(["keys", "show", str(tmp_path / file)]) == 0
        assert capsys.readouterr().out.split()[0] == keys.public.hex()
    assert main(["keys", "show", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split()[0] == keys.public.hex()
    assert main(["keys", "new", "edge", "-o", str(tmp_path)]) == 2
    assert "never overwritten" in capsys.readouterr().err
