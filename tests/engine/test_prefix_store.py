"""Blocks on disk: what comes back, what is refused, and that a damaged file costs a computation and nothing else."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.engine import Engine, SamplingParams
from cutset.engine import prefix_store as module
from cutset.engine.prefix_store import HEAD, PrefixStore
from cutset.errors import ConfigError, EngineError

from .fake import FakeExecutor
from .helpers import GREEDY, drain, make_engine, outputs, prompts, run
from .test_states import StateExecutor

CONTEXT = b"all that bits depend on"
LARGE = 1 << 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(folder: Path, limit: int = LARGE, context: bytes = CONTEXT) -> Any:
    return closing(PrefixStore(folder, limit, context))


def block(seed: int, size: int = 1000) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def digest_of(seed: int) -> bytes:
    return seed.to_bytes(16, "little")


def put(store: PrefixStore, seed: int, size: int = 1000) -> None:
    value = block(seed, size)
    store.write(digest_of(seed), b"tokens", [value[:300], value[300:]])


def got(store: PrefixStore, seed: int, size: int = 1000, tokens: bytes = b"tokens") -> bool:
    value = np.zeros(size, np.uint8)
    found = store.read(digest_of(seed), tokens, [value])
    if found:
        np.testing.assert_array_equal(value, block(seed, size))
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_written_comes_back(folder: Path) -> None:
    with opened(folder) as store:
        put(store, 1)
        put(store, 2)
    with opened(folder) as store:
        assert got(store, 1)
        assert got(store, 2)
        assert not got(store, 3)
        assert not got(store, 1, tokens=b"others")  # a collision of digests; the file goes
        assert (store.damaged, store.read_bytes) == (1, 2000)
    with opened(folder, context=b"another model") as store:
        assert not got(store, 2)


def test_only_the_owner_may_look(folder: Path) -> None:
    before = os.umask(0)
    try:
        with opened(folder / "deeper") as store:
            put(store, 1)
    finally:
        os.umask(before)
    everything = [folder / "deeper", *(folder / "deeper").rglob("*")]
    assert {path.stat().st_mode & 0o7777 for path in everything if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o7777 for path in everything if path.is_file()} == {0o600}
    (folder / "empty").mkdir(mode=0o755)
    with opened(folder / "empty"):
        assert (folder / "empty").stat().st_mode & 0o777 == 0o700
    (folder / "deeper").chmod(0o755)  # it is ours, and holds nothing else
    with opened(folder / "deeper") as store:
        assert got(store, 1)
    assert (folder / "deeper").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write in .*chmod 700"):
        PrefixStore(folder, LARGE, CONTEXT)
    assert folder.stat().st_mode & 0o7777 == mode


def test_a_directory_of_another_user_or_use_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").write_text("Dear Tom")
    with pytest.raises(ConfigError, match="others may look into"):
        PrefixStore(folder, LARGE, CONTEXT)
    assert folder.stat().st_mode & 0o777 == 0o755
    with pytest.raises(ConfigError, match=r"letter\.txt can't be used"):
        PrefixStore(folder / "letter.txt", LARGE, CONTEXT)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        PrefixStore(folder, LARGE, CONTEXT)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how in ("cut", "empty"):
        data = data[: len(data) // 2 if how == "cut" else 0]
    elif how == "longer":
        data += b"\0"
    else:
        data[
            {"magic": 0, "key": 30, "digest": HEAD.size - 1, "tokens": HEAD.size, "first": -1000, "last": -1}[how]
        ] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "empty", "longer", "magic", "key", "digest", "tokens", "first", "last"])
def test_a_damaged_file_is_a_miss_and_goes(folder: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as store:
        put(store, 1)
    [path] = files(folder)
    damage(path, how)
    with opened(folder) as store:
        with caplog.at_level(logging.WARNING):
            assert not got(store, 1)
        assert str(path) in caplog.text
        assert files(folder) == []
        put(store, 1)
    with opened(folder) as store:
        assert got(store, 1)


def test_links_and_pipes_are_not_followed(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as store:
        put(store, 1)
        put(store, 2)
    first, second = files(folder)
    for path, make in ((first, lambda to: to.symlink_to(tmp_path / "copy")), (second, os.mkfifo)):
        (tmp_path / "copy").write_bytes(path.read_bytes())
        path.unlink()
        make(path)
    with opened(folder) as store:  # a pipe would wait for ever
        assert not got(store, 1)
        assert not got(store, 2)


def test_the_size_is_kept_and_the_longest_unused_goes_first(folder: Path) -> None:
    limit = 20_000
    with opened(folder, limit) as store:
        for seed in range(12):
            put(store, seed)
    past = time.time_ns() - 10**12
    for age, path in enumerate(sorted(files(folder), key=os.path.getmtime)):
        os.utime(path, ns=(past + age, past + age))
    with opened(folder, limit) as store:
        assert got(store, 0)  # used: stays
        for seed in range(12, 60):
            put(store, seed)
            if seed % 5 == 0:
                assert got(store, 0)
            while not store._jobs.empty():
                time.sleep(0.001)
    assert 0 < sum(path.stat().st_size for path in files(folder)) <= limit
    with opened(folder, limit) as store:
        assert got(store, 0)
        assert not got(store, 1)
        assert got(store, 59)


def test_processes_may_share_one(folder: Path) -> None:
    limit = 40_000
    stores = [PrefixStore(folder, limit, CONTEXT) for _ in range(4)]

    def work(number: int) -> None:
        for seed in range(number, 100):
            put(stores[number], seed)
            got(stores[number], seed // 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
        assert store.damaged == 0
    assert sum(path.stat().st_size for path in files(folder)) <= limit * 5 // 4
    assert all(path.suffix == ".kv" for path in files(folder))


def test_leavings_of_a_process_that_died_go(folder: Path) -> None:
    with opened(folder) as store:
        put(store, 1)
    old, new = (files(folder)[0].with_name(name) for name in (".x.1.tmp", ".x.2.tmp"))
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    with opened(folder) as store:
        put(store, 2)
    assert new.exists()
    assert not old.exists()


def test_a_full_disk_costs_the_blocks_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(folder) as store, caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            patch.setattr(module, "appearing", full)
            for seed in range(5):
                put(store, seed)
            store._jobs.put(None)
            store._thread.join()
        assert store.dropped == 5
        assert caplog.text.count("No space left") == 1
        assert not got(store, 1)


def test_what_waits_to_be_written_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2500)
    gate = threading.Event()
    monkeypatch.setattr(PrefixStore, "_write", lambda *_: gate.wait())
    with opened(folder) as store:
        for seed in range(10):
            put(store, seed)  # never waits
        assert store.dropped == 8
        gate.set()


# Under an engine


def engine_with(folder: Path | None, executor: FakeExecutor | None = None, **options: Any) -> tuple[Engine, Any]:
    store = None if folder is None else PrefixStore(folder, LARGE, CONTEXT)
    return make_engine(executor, store=store, **options), store


def test_a_new_engine_goes_on_from_the_disk(folder: Path) -> None:
    asked = {str(i): (prompt, GREEDY) for i, prompt in enumerate(prompts(6, low=20, high=60))}
    plain = run(make_engine(), asked)
    engine, store = engine_with(folder)
    assert run(engine, asked) == plain
    assert engine.stats().stored_hits == 0
    store.close()
    rows = []
    for options in ({}, {"max_batch_tokens": 8}, {"blocks": 24}):
        executor = FakeExecutor()
        engine, store = engine_with(folder, executor, **options)
        with closing(store):
            assert run(engine, asked) == plain
        assert engine.stats().stored_hits == sum((len(prompt) - 1) // 4 * 4 for prompt, _ in asked.values())
        assert engine.stats().prefix_hits >= engine.stats().stored_hits
        rows.append(sum(map(sum, executor.log)))
    assert rows[0] < sum(len(prompt) for prompt, _ in asked.values())


def test_usage_counts_what_came_from_the_disk(folder: Path) -> None:
    prompt = list(range(41))
    for cached in (0, 40):
        engine, store = engine_with(folder)
        engine.add("a", prompt, SamplingParams(temperature=0, max_tokens=3, n=2))
        usage = outputs(drain(engine))["a"].usage
        store.close()
        assert usage is not None
        assert usage.cached_tokens == cached


def test_what_was_evicted_comes_back(folder: Path) -> None:
    first, second = list(range(40)), list(range(100, 140))
    engine, store = engine_with(folder, blocks=14)
    wanted = {}
    for round_ in range(3):
        for name, prompt in (("first", first), ("second", second)):
            found = run(engine, {name: (prompt, GREEDY)})
            assert wanted.setdefault(name, found) == found
        while store._waiting:
            time.sleep(0.001)
        if round_:
            assert engine.stats().stored_hits >= 36
    store.close()


def test_answers_are_kept_too(folder: Path) -> None:
    engine, store = engine_with(folder)
    prompt = list(range(10))
    [[answer]] = run(engine, {"a": (prompt, GREEDY)}).values()
    store.close()
    engine, store = engine_with(folder)
    run(engine, {"a": ([*prompt, *answer, 5], GREEDY)})
    assert engine.stats().stored_hits == 20
    store.close()


def test_salts_and_adapters_keep_apart(folder: Path) -> None:
    prompt = list(range(40))
    for salt, hits in ((None, 0), ("a", 0), ("b", 0), ("a", 36), (None, 36)):
        engine, store = engine_with(folder)
        run(engine, {"x": (prompt, GREEDY)}, cache_salt=salt)
        assert engine.stats().stored_hits == hits
        store.close()


def test_blocks_behind_one_that_is_missing_are_computed(folder: Path) -> None:
    """Though they were read with it."""
    prompt = list(range(60))
    engine, store = engine_with(folder)
    plain = run(engine, {"a": (prompt, GREEDY)})
    store.close()
    files = sorted(folder.rglob("*.kv"), key=lambda path: path.stat().st_mtime_ns)
    for missing in (5, 0):
        files[missing].unlink()
        engine, store = engine_with(folder)
        assert run(engine, {"a": (prompt, GREEDY)}) == plain
        assert engine.stats().stored_hits == 4 * missing
        store.close()
        files[missing].touch()  # written again by then; a place in the order is kept
        assert files[missing].stat().st_size > 100


def test_reading_gives_way_to_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long beginning is read between steps, in each of which the others get their tokens."""
    prompt = list(range(200))
    engine, store = engine_with(folder)
    plain = run(engine, {"long": (prompt, GREEDY)})
    store.close()
    monkeypatch.setattr("cutset.engine.scheduler.RESTORED_BYTES", 1)  # a block at a time
    monkeypatch.setattr("cutset.engine.scheduler.AT_ONCE", 1)
    engine, store = engine_with(folder)
    engine.add("short", [1, 2, 3], SamplingParams(temperature=0, max_tokens=60))
    engine.step()
    engine.add("long", prompt, GREEDY)
    steps, deltas = 0, []
    while not any(delta.request_id == "long" for delta in deltas):
        deltas = engine.step()
        steps += 1
        assert any(delta.request_id == "short" for delta in deltas)
    assert steps >= 49
    deltas += drain(engine)
    assert [outputs(deltas)["long"].outputs[0].token_ids] == plain["long"]
    engine, store = engine_with(folder)
    engine.add("long", prompt, GREEDY)
    assert engine.prefill("long")
    assert engine.stats().steps == 1
    engine.add("other", prompt, GREEDY)
    engine.step()
    engine.abort("other")  # while it reads
    engine.abort("long")
    drain(engine)
    store.close()


def test_a_damaged_block_is_computed(folder: Path) -> None:
    prompt = list(range(40))
    engine, store = engine_with(folder)
    plain = run(engine, {"a": (prompt, GREEDY)})
    store.close()
    for path in files(folder):
        damage(path, "last")
        engine, store = engine_with(folder)
        assert run(engine, {"a": (prompt, GREEDY)}) == plain
        store.close()
        assert store.damaged <= 1


def test_what_has_states_is_refused(folder: Path) -> None:
    with opened(folder) as store:
        with pytest.raises(EngineError, match="states"):
            make_engine(StateExecutor(), store=store)
        with pytest.raises(EngineError, match="prefix_caching"):
            make_engine(store=store, prefix_caching=False)
