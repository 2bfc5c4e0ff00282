"""Output files: whole, or not there."""

import errno
import json
import os
import stat

import pytest

from cutset.compare.results import MachineInfo
from cutset.errors import ConfigError
from cutset.files import appearing, check_writable, write_atomically, write_json


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"ä": [1, None]})
    write_json(str(path), {"b": 2})
    assert path.read_text() == '{\n "b": 2\n}\n'
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out"
    write_atomically(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_dataclasses_are_objects(tmp_path):
    write_json(tmp_path / "out", {"machine": MachineInfo("cpu", 2, 1, {"python": "3"})})
    expected = {"machine": {"cpu": "cpu", "cores": 2, "threads": 1, "versions": {"python": "3"}}}
    assert json.loads((tmp_path / "out").read_text()) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ConfigError, match="can't be written: Out of range float"):
        write_json(tmp_path / "out", [value])
    assert os.listdir(tmp_path) == []


def test_text_that_has_no_bytes(tmp_path):
    with pytest.raises(ConfigError, match="can't be written"):
        write_atomically(tmp_path / "out", "\udc80")
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"gone/out' can't be written: No such file or directory"):
        write_atomically(tmp_path / "gone" / "out", "x")


def test_links_are_followed_and_permissions_kept(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_devices_are_written_to_not_replaced(tmp_path):
    write_atomically("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    read, write = os.pipe()
    write_atomically(f"/dev/fd/{write}", "through a pipe")
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == "through a pipe"


@pytest.mark.parametrize(
    "path", ["gone/out", "", "a" * 300, "file/out", "\0", "/proc/out", "/sys/out", ".", "link-to-gone", "dev/fd/999"]
)
def test_what_cannot_be_written_is_known_before(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link-to-gone").symlink_to(tmp_path / "gone" / "out")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ConfigError, match="can't be written"):
        check_writable(path)
    with pytest.raises(ConfigError, match="can't be written"):
        write_atomically(path, "x")
    assert sorted(os.listdir(tmp_path)) == before


def test_asking_changes_nothing(tmp_path):
    old = tmp_path / "old"
    old.write_text("kept")
    old.chmod(0o440)
    check_writable(old)
    check_writable(tmp_path / "new")
    check_writable("/dev/null")
    assert os.listdir(tmp_path) == ["old"]
    assert old.read_text() == "kept"
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")  # nobody reads it yet: it doesn't wait


def test_a_full_disk_says_where(tmp_path):
    for number, shown in ((errno.ENOSPC, str(tmp_path / "out")), (errno.EIO, None)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught, appearing(tmp_path / "out"):
            raise OSError(number, os.strerror(number))
        assert caught.value.filename == shown
    assert os.listdir(tmp_path) == []
