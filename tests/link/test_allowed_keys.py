"""Public keys that may connect, while they come and go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cutset.errors import ConfigError, LinkError
from cutset.link import Link, Listener, allowed_keys, connect, listen
from cutset.link.allowed_keys import AllowedKeys
from cutset.link.keys import Keys, listening_keys, new_keys, save_keys


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed_keys, "PERIOD", 0.0)


def pair(name: str, folder: Path) -> Keys:
    keys = new_keys()
    save_keys(keys, name, folder)
    return keys


def test_keys_come_and_go(tmp_path: Path) -> None:
    one = pair("one", tmp_path)
    allowed = AllowedKeys(tmp_path)
    assert allowed == {one.public}
    two = pair("two", tmp_path)
    assert set(allowed) == {one.public, two.public}
    assert allowed.revoked == set()
    (tmp_path / "one.pub").unlink()
    assert one.public not in allowed
    assert two.public in allowed
    assert allowed.revoked == {one.public}
    (tmp_path / "two.pub").unlink()
    assert len(allowed) == 0, "a directory without keys allows nobody"
    (tmp_path / "one.pub").write_text(f"{one.public.hex()} one\n")
    assert one.public in allowed
    assert allowed.revoked == {two.public}, "who is allowed again isn't revoked"


def test_a_file_with_lines(tmp_path: Path) -> None:
    one, two, place = new_keys(), new_keys(), tmp_path / "allowed"
    place.write_text(f"{one.public.hex()} one\n{two.public.hex()} two\n")
    allowed = AllowedKeys(place)
    assert allowed == {one.public, two.public}
    place.write_text(f"# one is gone\n{two.public.hex()} two\n")
    assert allowed == {two.public}


def test_what_cannot_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, place = new_keys(), tmp_path / "allowed"
    place.write_text(f"{one.public.hex()} one\n")
    allowed = AllowedKeys(place)
    for spoil in (lambda: place.write_text("secret"), place.unlink):
        caplog.clear()
        spoil()
        assert allowed == {one.public}
        assert [r.levelno for r in caplog.records] == [logging.WARNING]
        assert one.public in allowed
        assert len(caplog.records) == 1, "said once"
    with pytest.raises(ConfigError, match="can't be read"):
        AllowedKeys(place)
    place.write_text("# nobody\n")
    with pytest.raises(ConfigError, match="nobody could connect"):
        AllowedKeys(place)


def greeted(listener: Listener, keys: Keys, server: Keys) -> Link:
    link = connect(listener.address, keys=keys.expecting(server.public))
    link.send(b"hello")
    got = listener.recv(5.0)
    assert got is not None
    got[1].release()
    return link


def test_links_of_a_revoked_key_end_and_others_stay(tmp_path: Path) -> None:
    server, folder = pair("server", tmp_path), tmp_path / "clients"
    one, two = pair("one", folder), pair("two", folder)
    keys, allow = listening_keys("tcp://127.0.0.1:0", str(tmp_path / "server.key"), str(folder), "clients")
    listener = listen("tcp://127.0.0.1:0", keys=keys, allow=allow)
    links = [greeted(listener, each, server) for each in (one, two)]
    try:
        assert listener.gone() == []
        (folder / "one.pub").unlink()
        (gone,) = listener.gone()
        assert gone.peer == one.public.hex()
        with pytest.raises(LinkError, match=r"went away|ended|closed"):
            links[0].recv(5.0)
        links[1].send(b"still here")
        got = listener.recv(5.0)
        assert got is not None
        assert got[1].header == b"still here"
        got[1].release()
        with pytest.raises(LinkError):
            connect(listener.address, keys=one.expecting(server.public))
        three = pair("three", folder)
        links.append(greeted(listener, three, server))
        # One that comes as the neighbour of a plan is none of those who were allowed.
        (folder / "three.pub").unlink()
        listener.expect([three.public])
        assert listener.gone() == []
    finally:
        for link in links:
            link.close()
        listener.close()
