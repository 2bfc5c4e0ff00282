"""Every file that a command reads: whatever is in it, the answer is a result or one clear error, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.cluster import messages as stream_messages
from cutset.cluster.trace.chrome import read_trace, write_trace
from cutset.cluster.trace.record import Trace
from cutset.cluster.trace.spans import Span
from cutset.cluster.trace.table import latencies, window, work
from cutset.codec import payload
from cutset.compare.agreement import compare_arrays, load_array
from cutset.compare.results import MachineInfo, Results, Row, save
from cutset.config import load_settings
from cutset.errors import CutsetError
from cutset.link.frames import decode, encode
from cutset.link.keys import load_allowed, load_keys, load_public, new_keys, save_keys
from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, SafetensorsFile
from cutset.models.files.contents import contents_of
from cutset.models.files.digests import verify_digests
from cutset.models.files.exchange import ExchangeFile
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED, catalogue, registered
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.tokenizer import Tokenizer
from cutset.offload import messages as offload_messages
from cutset.offload.enclave.lint import lint_file
from cutset.partition.description import describe, read_description
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value
from cutset.partition.plan import Plan, StagePlan, read_plan, write_plan
from cutset.partition.profile import FORMAT, Profile, read_profile, write_profile
from cutset.video.detection import read_labels
from cutset.video.detection.choosing import read_anchors
from cutset.video.frigate.protocol import read_request
from cutset.video.profile.scenario import read_scenario
from cutset.video.sparsity.archive import read_archive, write_archive
from cutset.video.views.runs import read_run
from cutset.video.zones.zone import read_zones
from gguf_bytes import tiny_model
from link.hellos import hello
from models import quantized_files
from mutations import mutations

QUICK, THOROUGH = 300, 5000
Reader = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file of every kind, by its name."""
    place = tmp_path_factory.mktemp("good")
    RandomModel(hidden=16, heads=2, kv_heads=1, vocab=32, layers=1).write_checkpoint(place / "model")
    assert main(["random", "--hidden", "16", "--heads", "2", "--kv-heads", "1", "--vocab", "32", "--layers", "1",
                 "-o", str(place / "exchange.json")]) == 0  # fmt: skip
    row = Row("one", "cutset", "rate", 1.5, "tok/s", 0.1)
    machine = MachineInfo("a processor", 2, 2, {"numpy": "2.0"})
    save(Results("cutset bench", machine, (row, Row("one", "other", "rate", 1.0, "tok/s"))), place / "results.json")
    (place / "cutset.toml").write_text('threads = 2\ndtype = "int8"\nprefix_caching = true\nmodels_file = "m.yaml"\n')
    (place / "models.yaml").write_text("tiny: model\nother:\n  path: x\n  dtype: int8\n  max_model_len: 12\n")
    (place / "manifest").write_text('[loader]\nargv = ["cutset", "generate"]\n[fs]\nmounts = [{path = "/x"}]\n'
                                    '[sgx]\nenclave_size = "1G"\ntrusted_files = ["file:/a"]\n')  # fmt: skip
    save_keys(new_keys(), "pair", place)
    np.save(place / "array.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    graph = tiny()
    (place / "description.json").write_text(json.dumps(describe(graph)))
    plan = Plan("0" * 64, (StagePlan("edge", (0,)), StagePlan("cloud", (1,))), "", "optimal")
    (place / "plan.json").write_bytes(write_plan(plan))
    profile = Profile(
        FORMAT, "net", (8, 8), "0" * 64, "cpu", 2, 1, {"torch": "2"}, [0.1, 0.2], [0.0, 0.1], 0.3, 0.01, 3,
        {"bits": 1e-9}, {"bits": 1e-9},
    )  # fmt: skip
    (place / "profile.json").write_text(write_profile(profile))
    spans = [
        Span(kind, 0, i, i + at, i + at + 0.5, 10) for i in range(3) for at, kind in ((0.0, "capture"), (0.5, "send"))
    ]
    (place / "trace.json").write_bytes(write_trace(Trace("a run", {"coordinator": tuple(spans)}, {"in flight": "2"})))
    document = {"command": "cutset stream run", "pictures": [{"latency_s": 0.5}, {"latency_s": 1}],
                "rows": [{"metric": "throughput", "value": 2.5}], "in_flight": 2}  # fmt: skip
    (place / "run.json").write_text(json.dumps(document))
    polygon = "polygon: [[0.1, 0.5], [0.4, 0.5], [0.4, 1.0]]"
    (place / "zones.yaml").write_text(f"zones:\n  door:\n    {polygon}\n    stays: 2.5\n    camera: front\n")
    (place / "zones.toml").write_text(f'[zones.door]\n{polygon.replace(":", " =")}\ninertia = 3\nlabels = ["dog"]\n')
    (place / "labels.txt").write_text("0 person\n1: car\n2 traffic light\n")
    np.save(place / "anchors.npy", np.full((4, 4), 0.25))
    (place / "header.msg").write_text('{"shape": [1, 320, 320, 3], "dtype": "uint8", "model_type": "ssd"}')
    (place / "scenario.toml").write_text(
        'model = "alexnet"\npictures = 4\nrate = 2.5\n[[worker]]\nlink = "8MB/s,20ms"\nspeed = 0.5\n'
    )
    (place / "scenario.json").write_text(
        json.dumps({"model": "alexnet", "worker": [{"link": "8MB/s,20ms", "speed": 1}]})
    )
    rng, small = np.random.default_rng(3), RandomModel(hidden=32, heads=2, kv_heads=1, vocab=32, layers=1)
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq"}
    quantized_files.write(
        place / "gptq", gptq, lambda n, o, i: quantized_files.gptq(rng, o, i, 4, 16, order=True), small
    )
    awq = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
    quantized_files.write(place / "awq", awq, lambda n, o, i: quantized_files.awq(rng, o, i, 16), small)
    scheme = {"num_bits": 4, "type": "int", "group_size": 16, "strategy": "group", "symmetric": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme}}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    quantized_files.write(
        place / "packed",
        packed,
        lambda n, o, i: quantized_files.packed(rng, o, i, 4, 16, zeros="I32", order=True),
        small,
    )
    fp8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    quantized_files.write(
        place / "fp8", fp8, lambda n, o, i: quantized_files.fp8(rng, o, i, (o // 16, i // 16), (16, 16)), small
    )
    write_archive(
        place / "archive.npz", {"format": "f", "x": 1}, {"a": np.arange(6.0), "b": np.zeros((2, 2), np.int32)}
    )
    return place


def tiny() -> Graph:
    """Two layers, without torch."""
    x, y, z = (Value(name, (1, 3, 8, 8), "float32") for name in "xyz")
    nodes = (
        Node("relu", "relu", "aten.relu.default", (Read("x"),), (), (y,), False, 10),
        Node("neg", "neg", "aten.neg.default", (Read("y"),), (), (z,), False, 10),
    )
    return Graph((x,), ("z",), nodes, {})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    overflowing = warnings.catch_warnings(action="ignore", category=RuntimeWarning)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), overflowing:
        yield


def command(*words: object) -> Reader:
    """A command line, in which None stands for the file: it ends with an exit code."""

    def read(path: Path) -> None:
        with quiet():
            code = main([str(path if word is None else word) for word in words])
        if code == 2:
            raise CutsetError("the command refused it")
        assert code in (0, 1)

    return read


def in_model(name: str, read: Reader) -> Callable[[Path], Reader]:
    """A model directory in which one file is the damaged one."""

    def make(good: Path) -> Reader:
        def inner(path: Path) -> object:
            directory = path.parent / "around"
            directory.mkdir(exist_ok=True)
            source = good / "model" if name not in ("tokenizer.json", "tokenizer_config.json") else BUNDLED["story"]
            for file in source.iterdir():
                target = directory / file.name
                if not target.exists() and file.name != name:
                    target.symlink_to(file)
            (directory / name).unlink(missing_ok=True)
            (directory / name).write_bytes(path.read_bytes())
            return read(directory)

        return inner

    return make


def tensors(path: Path) -> None:
    for tensor in SafetensorsFile(path).values():
        with np.errstate(all="ignore"):
            np.asarray(tensor.raw)


def digests(directory: Path) -> None:
    verify_digests(directory, Checkpoint(directory), 1, always=True)


def exchange(path: Path) -> None:
    file = ExchangeFile(path)
    for tensor in file.values():
        with contextlib.suppress(CutsetError):
            np.asarray(tensor.raw)


def tokens(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode("One day, a 🐕!")
    tokenizer.decode([int(i) for i in ids if i < 1 << 31])
    with contextlib.suppress(CutsetError):
        ChatTemplate.of(tokenizer).render([{"role": "user", "content": "hello"}])


def gguf(path: Path) -> None:
    with np.errstate(all="ignore"):
        for tensor in open_source(path).tensors.values():
            tensor.float32()
    contents_of(path)
    tokens(path)


def trace(path: Path) -> None:
    found = read_trace(path)
    latencies(found.timeline)
    begin, end = window(found.timeline)
    work(found.timeline, begin, end)
    write_trace(found)


def compared(path: Path) -> None:
    array = load_array(path)
    with np.errstate(all="ignore"):
        compare_arrays(array, np.ones((2, 3, 4), np.float32))
        compare_arrays(array, array)


def settings(path: Path) -> None:
    (path.parent / "cutset.toml").write_bytes(path.read_bytes())
    load_settings(environ={"XDG_CONFIG_HOME": "/nowhere"}, cwd=path.parent)


def models(path: Path) -> None:
    found = load_settings({"models_file": str(path)}, environ={"XDG_CONFIG_HOME": "/nowhere"}, cwd=path.parent)
    registered(found)
    catalogue(found)


def decoded(decode: Callable[[bytes], object]) -> Reader:
    return lambda path: decode(path.read_bytes())


def plan(path: Path) -> None:
    read_plan(path.read_bytes())
    read_plan(path).check(tiny(), "0" * 64)


def spec(directory: Path) -> None:
    load_spec(directory)
    open_source(directory)


def weights(directory: Path) -> None:
    """All weights of a quantised checkpoint, of whatever method."""
    with np.errstate(all="ignore"):
        for tensor in open_source(directory).tensors.values():
            tensor.float32()


def in_quantized(method: str, name: str) -> Callable[[Path], Reader]:
    """A checkpoint that another program has quantised, in which one file is the damaged one."""

    def in_model(good: Path) -> Reader:
        def inner(path: Path) -> None:
            directory = path.parent / "around"
            directory.mkdir(exist_ok=True)
            for file in ("config.json", "model.safetensors"):
                shutil.copyfile(path if file == name else good / method / file, directory / file)
            weights(directory)

        return inner

    in_model.__qualname__ = "in_model"
    return in_model


def profile(path: Path) -> None:
    read_profile(path).check(tiny(), "0" * 64)


def report(path: Path) -> None:
    place = path.parent / "results"
    place.mkdir(exist_ok=True)
    (place / "one.json").write_bytes(path.read_bytes())
    command("bench", "report", place, "-o", path.parent / "report.md")(path)


# The good file, what reads it, and whether it is JSON.
READERS: dict[str, tuple[str, Any, bool]] = {
    "safetensors": ("model/model.safetensors", tensors, False),
    "gguf": ("model.gguf", gguf, False),
    "exchange": ("exchange.json", exchange, True),
    "forward": ("exchange.json", command("forward", None, "--backend", "reference"), True),
    "config.json": ("model/config.json", in_model("config.json", spec), True),
    **{
        f"{method}, {name}": (f"{method}/{name}", in_quantized(method, name), name == "config.json")
        for method in ("gptq", "awq", "packed", "fp8")
        for name in ("config.json", "model.safetensors")
    },
    "generation_config.json": ("generation_config.json", in_model("generation_config.json", spec), True),
    "index.json": ("index.json", in_model("model.safetensors.index.json", Checkpoint), True),
    "digests.json": ("digests.json", in_model("digests.json", digests), True),
    "tokenizer.json": ("tokenizer.json", in_model("tokenizer.json", tokens), False),
    "tokenizer_config.json": ("tokenizer_config.json", in_model("tokenizer_config.json", tokens), True),
    "results": ("results.json", command("bench", "diff", None, None), True),
    "report": ("results.json", report, True),
    "cutset.toml": ("cutset.toml", settings, False),
    "models.yaml": ("models.yaml", models, False),
    "manifest": ("manifest", lint_file, False),
    "key pair": ("pair.key", load_keys, False),
    "public keys": ("pair.pub", load_allowed, False),
    "a public key": ("pair.pub", load_public, False),
    "array": ("array.npy", compared, False),
    "description": ("description.json", decoded(lambda data: read_description(_json(data))), True),
    "plan": ("plan.json", plan, True),
    "profile": ("profile.json", profile, True),
    "trace": ("trace.json", trace, True),
    "stream trace": ("trace.json", command("stream", "trace", None), True),
    "run": ("run.json", read_run, True),
    "zones.yaml": ("zones.yaml", lambda path: read_zones(path, ["front"]), False),
    "zones.toml": ("zones.toml", lambda path: read_zones(path, ["front"]), False),
    "labels": ("labels.txt", read_labels, False),
    "anchors": ("anchors.npy", read_anchors, False),
    "header of Frigate's": ("header.msg", decoded(read_request), True),
    "scenario": ("scenario.toml", read_scenario, False),
    "scenario.json": ("scenario.json", read_scenario, True),
    "archive": ("archive.npz", lambda path: read_archive(path, "f", "an archive"), False),
    "message of a stream": ("stream.msg", decoded(stream_messages.decode), False),
    "message of an offload": ("offload.msg", decoded(offload_messages.decode), False),
    "payload": ("stream.msg", decoded(payload.decode), False),
    "frame": ("frame", decoded(lambda data: decode(memoryview(data), 0, len(data), 1 << 20)), False),
}


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def good(folder: Path, name: str) -> bytes:
    """The file that is damaged; those that are in no model of the folder are made here."""
    made = {
        "generation_config.json": lambda: (
            b'{"eos_token_id": [1, 2], "top_k": 5, "temperature": 0.5, "do_sample": true}'
        ),
        "index.json": lambda: json.dumps({"weight_map": {"a": "model.safetensors"}, "metadata": {}}).encode(),
        "digests.json": lambda: json.dumps({"lm_head.weight": "0" * 64}).encode(),
        "tokenizer.json": lambda: (BUNDLED["story"] / "tokenizer.json").read_bytes(),
        "tokenizer_config.json": lambda: (BUNDLED["story"] / "tokenizer_config.json").read_bytes(),
        "stream.msg": lambda: stream_messages.encode(hello(stream_messages.PROTOCOL, about=b"edge")),
        "offload.msg": lambda: offload_messages.encode(offload_messages.Refused("because", 7)),
        "model.gguf": tiny_model,
        "frame": lambda: b"".join(bytes(part) for part in encode(b"hello", [np.arange(10)], 1 << 20)[0]),
    }
    return made[name]() if name in made else (folder / name).read_bytes()


def fuzz(folder: Path, place: Path, name: str, seed: int, count: int) -> None:
    source, reader, is_json = READERS[name]
    data = good(folder, source)
    read = reader(folder) if reader.__qualname__.startswith("in_model") else reader
    path = place / Path(source).name
    path.write_bytes(data)
    path.chmod(0o600)
    document = json.loads(data) if is_json else None
    passed = 0
    for turn, mutated in enumerate(mutations(data, seed, count, document)):
        path.write_bytes(mutated)
        try:
            read(path)
            passed += 1
        except (CutsetError, OSError, MemoryError) as error:  # what the command line takes for the user's business
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, turn {turn}: {mutated[:300]!r}") from error
        else:
            continue
        assert said
        assert said.count("\n") <= 3
    assert passed < count  # it looks at what it reads


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_one_clear_error(folder: Path, tmp_path: Path, name: str) -> None:
    few = {
        "forward": 60,
        "tokenizer.json": 25,
        "tokenizer_config.json": 60,
        "results": 150,
        "report": 100,
        "stream trace": 60,
    }
    fuzz(folder, tmp_path, name, zlib.crc32(name.encode()), few.get(name, QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", READERS)
def test_many_more_damaged_files(folder: Path, tmp_path: Path, name: str, seed: int) -> None:
    few = {"forward": 500, "tokenizer.json": 200, "tokenizer_config.json": 500, "stream trace": 500, "gguf": 34_000}
    fuzz(folder, tmp_path, name, 1000 + seed, few.get(name, THOROUGH))
