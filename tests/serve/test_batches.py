"""`/v1/files` and `/v1/batches` with OpenAI's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("starlette")
pytest.importorskip("openai")
pytest.importorskip("python_multipart")

import openai

from cutset.batches.input_lines import InputLine
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError
from cutset.llm import LLM, AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.batches import batch_store
from cutset.serve.batches.batch_api import BatchApi
from cutset.serve.batches.batch_lines import LineAnswer, LineAnswerer
from cutset.serve.batches.file_store import StoreLimits
from cutset.serve.front import Front
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.serve.conftest import Running

KEYS = ("key-of-ann", "key-of-ben")
URLS = {
    "/v1/completions": {"prompt": "Once", "max_tokens": 5, "temperature": 0.9, "seed": 3, "logprobs": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 5, "seed": 4, "n": 2},
    "/v1/embeddings": {"input": ["a dog", "a cat"], "dimensions": 8},
    "/v1/responses": {"input": "Once", "max_output_tokens": 16, "temperature": 0},
}


class Batching(Running):
    """A server that offers batches."""

    def upload(self, lines: list[Any], key: str = "none") -> str:
        data = b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines)
        return self.client(key).files.create(file=("in.jsonl", data), purpose="batch").id

    def batch(self, lines: list[Any], url: str = "/v1/completions", key: str = "none", **more: Any) -> Any:
        file = self.upload(lines, key)
        create = self.client(key).batches.create
        return create(input_file_id=file, endpoint=url, completion_window="24h", **more)

    def wait(self, name: str, key: str = "none", seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.client(key).batches.retrieve(name)
            if found.status in ("completed", "failed", "expired", "cancelled"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"still {found.status}")

    def lines(self, name: str | None, key: str = "none") -> list[dict[str, Any]]:
        assert name is not None
        return [json.loads(line) for line in self.client(key).files.content(name).text.splitlines()]


Begin = Callable[..., contextlib.AbstractContextManager[Batching]]


@pytest.fixture
def begin(llm: AsyncLLM) -> Begin:
    @contextlib.contextmanager
    def start(
        folder: Path | None, keys: tuple[str, ...] = (), origins: tuple[str, ...] = (), **limits: Any
    ) -> Iterator[Batching]:
        service = Service(llm, limits=RequestLimits(grace_s=1.0))
        api = BatchApi(folder, StoreLimits(**limits))
        app = build_app(service, Auth(keys, "127.0.0.1"), Front(origins), batches=api)
        with serve_in_thread(Server(app, service), bind("127.0.0.1", 0)) as url:
            running = Batching(service, url)
            yield running
            running.close()

    return start


@contextlib.contextmanager
def held_from(number: int) -> Iterator[None]:
    """Lines from this one on are taken and not answered, so that a batch isn't over however fast the machine is."""
    answer = LineAnswerer.answer

    async def held(self: LineAnswerer, line: InputLine, first: int | None) -> LineAnswer:
        if line.number >= number:
            await asyncio.Event().wait()
        return await answer(self, line, first)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LineAnswerer, "answer", held)
        yield


def request(name: str, url: str = "/v1/completions", body: Any = None) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body or URLS[url]}


def said(body: dict[str, Any]) -> Any:
    """An answer without what differs from one time to the next."""
    text = json.loads(json.dumps(body))
    for name in ("id", "created", "created_at", "completed_at", "usage"):
        text.pop(name, None)
    for item in text.get("output", ()):
        item.pop("id")
    return text


@pytest.mark.parametrize("url", URLS)
def test_answers_are_those_of_the_server(begin: Begin, url: str, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        batch = server.batch([request("a", url), request("b", url)], url, metadata={"of": "a test"})
        assert (batch.object, batch.endpoint, batch.metadata) == ("batch", url, {"of": "a test"})
        assert batch.expires_at == batch.created_at + 24 * 3600
        done = server.wait(batch.id)
        assert (done.status, done.error_file_id) == ("completed", None)
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 2, 0)
        assert None not in (done.in_progress_at, done.finalizing_at, done.completed_at)
        direct = httpx.post(f"{server.url}{url}", json=URLS[url], timeout=60).json()
        found = server.lines(done.output_file_id)
        assert [line["custom_id"] for line in found] == ["a", "b"]
        for line in found:
            assert (line["error"], line["response"]["status_code"]) == (None, 200)
            assert said(line["response"]["body"]) == said(direct)
        server.idle()


def test_errors_are_in_a_file_of_their_own(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        lines = [request("a"), b"{\n", b"\xff\n", request("b", body={"prompt": "x", "top_p": 7}), request("a")]
        lines += [request("c", "/v1/embeddings"), request("d", body={"prompt": "x", "model": "none"}), request("e")]
        done = server.wait(server.batch(lines).id)
        assert done.status == "completed"
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (8, 2, 6)
        assert [line["custom_id"] for line in server.lines(done.output_file_id)] == ["a", "e"]
        wrong = server.lines(done.error_file_id)
        assert [line["custom_id"] for line in wrong] == [None, None, "b", "a", "c", "d"]
        codes = [line["error"]["code"] if line["error"] else line["response"]["status_code"] for line in wrong]
        assert codes == ["invalid_json_line", "invalid_encoding", 400, "duplicate_custom_id", "mismatched_url", 404]


def test_files_come_and_go(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        client = server.client()
        names = [server.upload([request(str(one))]) for one in range(5)]
        assert [file.id for file in client.files.list(limit=2)] == names[::-1]  # page after page
        assert [file.id for file in client.files.list(order="asc").data] == names
        assert client.files.list(purpose="batch_output").data == []
        file = client.files.retrieve(names[0])
        assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "in.jsonl", "processed")
        assert client.files.content(names[1]).text == json.dumps(request("1")) + "\n"
        assert len(client.files.content(names[1]).content) == client.files.retrieve(names[1]).bytes
        assert client.files.delete(names[0]).deleted
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(names[0])
        for folder, _, files in os.walk(tmp_path / "kept"):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            assert all(stat.S_IMODE(os.stat(Path(folder, name)).st_mode) == 0o600 for name in files)


def test_what_is_another_key_s_is_not_there(begin: Begin, tmp_path: Path) -> None:
    ann, ben = KEYS
    with begin(tmp_path / "kept", KEYS) as server:
        batch = server.batch([request("a")], key=ann)
        done = server.wait(batch.id, ann)
        other = server.client(ben)
        assert other.files.list().data == [] == other.batches.list().data
        for name in (done.input_file_id, done.output_file_id):
            for call in (other.files.retrieve, other.files.content, other.files.delete):
                with pytest.raises(openai.NotFoundError):
                    call(name)
        for call in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                call(batch.id)
        with pytest.raises(openai.BadRequestError, match="there is no file"):
            other.batches.create(input_file_id=done.input_file_id, endpoint="/v1/completions", completion_window="24h")
        with pytest.raises(openai.AuthenticationError):
            server.client("key-of-nobody").files.list()
        assert [one.id for one in server.client(ann).batches.list()] == [batch.id]
    with begin(tmp_path / "kept", (ann,)) as server:  # one key alone is still that key
        assert [one.id for one in server.client(ann).batches.list()] == [batch.id]
    with begin(tmp_path / "kept", (ben,)) as server:
        assert server.client(ben).batches.list().data == []
    for path in (tmp_path / "kept").rglob("*"):
        assert path.is_dir() or b"key-of" not in path.read_bytes()


def test_a_batch_goes_on_after_a_restart(begin: Begin, tmp_path: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 20, "temperature": 0.9, "seed": 5}
    lines = [request(str(one), body=body | {"seed": one}) for one in range(200)]
    with held_from(150), begin(tmp_path / "kept") as server:
        name = server.batch(lines).id
        end = time.monotonic() + 60
        while server.client().batches.retrieve(name).request_counts.completed < 20 and time.monotonic() < end:
            time.sleep(0.02)
        before = server.client().batches.retrieve(name)
        assert before.status == "in_progress"
    with begin(tmp_path / "kept") as server:
        done = server.wait(name)
        assert (done.status, done.request_counts.completed) == ("completed", 200)
        found = server.lines(done.output_file_id)
        assert [line["custom_id"] for line in found] == [str(one) for one in range(200)]
        assert len({line["id"] for line in found}) == 200
        direct = server.client().completions.create(model="tale", **lines[7]["body"]).choices[0].text
        assert found[7]["response"]["body"]["choices"][0]["text"] == direct
        assert not [path for path in (tmp_path / "kept" / "batches").iterdir() if path.is_dir()]


def test_a_batch_can_be_cancelled(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        client = server.client()
        lines = [
            request(str(one), body={"prompt": "Once", "max_tokens": 100, "ignore_eos": True}) for one in range(900)
        ]
        batch = server.batch(lines)
        with pytest.raises(openai.BadRequestError, match="isn't over"):
            client.files.delete(batch.input_file_id)
        client.batches.cancel(batch.id)
        done = server.wait(batch.id)
        assert done.status == "cancelled"
        assert None not in (done.cancelling_at, done.cancelled_at)
        assert done.request_counts.completed < 900
        if done.output_file_id:
            assert len(server.lines(done.output_file_id)) == done.request_counts.completed
        assert client.batches.cancel(batch.id).status == "cancelled"
        client.files.delete(batch.input_file_id)
        over = server.wait(server.batch([request("a")]).id)
        with pytest.raises(openai.BadRequestError, match="is completed can't be cancelled"):
            client.batches.cancel(over.id)
        server.idle()


def test_who_waits_for_an_answer_goes_before_a_batch(begin: Begin, tmp_path: Path) -> None:
    """With all places taken by long requests of a batch, a short one is answered long before these end."""
    with begin(tmp_path / "kept") as server:
        places = server.service.llm.settings.max_num_seqs
        body = {"prompt": "Once", "max_tokens": 200, "ignore_eos": True}
        batch = server.batch([request(str(one), body=body) for one in range(4 * places)])
        end = time.monotonic() + 60
        while server.service.llm.stats().running < places and time.monotonic() < end:
            time.sleep(0.01)
        before = server.service.llm.stats()
        assert (before.running, before.waiting > 0) == (places, True)
        found = server.client().completions.create(model="tale", prompt="One day", max_tokens=3)
        assert found.usage.completion_tokens == 3
        assert server.service.llm.stats().preemptions > before.preemptions
        assert server.client().batches.retrieve(batch.id).request_counts.completed == 0
        server.client().batches.cancel(batch.id)
        server.wait(batch.id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "/v1/images"}, "endpoint must be one of"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-0"}, "there is no file"),
        ({"input_file_id": "../../x"}, "there is no file"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"a" * 65: "x"}}, "metadata"),
    ],
)
def test_a_batch_that_can_t_be_is_refused(begin: Begin, change: Any, message: str, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        asked = {"input_file_id": server.upload([request("a")]), "endpoint": "/v1/completions"}
        with pytest.raises(openai.BadRequestError, match=message):
            server.client().batches.create(**{**asked, "completion_window": "24h", **change})
        assert server.client().batches.list().data == []


def test_uploads_are_bounded_and_forms_are_read_strictly(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept", file_bytes=1000, space=2500, files=3) as server:
        client, url = server.client(), f"{server.url}/v1/files"
        with pytest.raises(openai.APIStatusError, match="larger than 1000 bytes"):
            client.files.create(file=("a", b"x" * 1001), purpose="batch")
        for _ in range(2):
            client.files.create(file=("../../etc/pass\x1bwd", b"x" * 900), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="more than 2500 bytes"):
            client.files.create(file=("a", b"x" * 900), purpose="batch")
        client.files.create(file=("a", b"x"), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="3 files, the most"):
            client.files.create(file=("a", b"x"), purpose="batch")
        assert {file.filename for file in client.files.list()} == {"passwd", "a"}
        for file in client.files.list().data:
            client.files.delete(file.id)
        with pytest.raises(openai.BadRequestError, match="purpose must be"):
            client.files.create(file=("a", b"x"), purpose="fine-tune")
        wrong: list[tuple[dict[str, Any], int]] = [
            ({"json": {}}, 415),
            ({"data": {"purpose": "batch"}}, 415),
            ({"files": {"other": ("a", b"x")}, "data": {"purpose": "batch"}}, 400),
            ({"files": [("file", ("a", b"x")), ("file", ("b", b"y"))], "data": {"purpose": "batch"}}, 400),
            ({"files": {"file": ("a", b"x")}, "data": {"purpose": "b" * 300}}, 400),
            ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
            ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
            ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 415),
            ({"files": {"file": ("a", b"x")}, "headers": {"origin": "https://evil.example"}}, 403),
        ]
        for more, status in wrong:
            answer = httpx.post(url, **more)
            assert (answer.status_code, "error" in answer.json()) == (status, True), more
        long = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + b"a" * 9000 + b'"\r\n\r\nx\r\n--x--\r\n'
        )
        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert httpx.post(url, content=long, headers=kind).status_code == 400
        assert client.files.list().data == []
        assert not list((tmp_path / "kept" / "files").iterdir())


def test_what_has_gone_and_what_no_form_has_are_said_so(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept") as server:
        name = server.upload([request("a")])
        (tmp_path / "kept" / "files" / f"{name}.data").unlink()
        assert httpx.get(f"{server.url}/v1/files/{name}/content").json()["error"]["code"] == "file_not_found"
        asked = {"input_file_id": name, "endpoint": "/v1/completions", "completion_window": "24h"}
        failed = server.wait(httpx.post(f"{server.url}/v1/batches", json=asked).json()["id"])
        assert (failed.status, failed.errors.data[0].code) == ("failed", "batch_failed")
        assert str(tmp_path) not in failed.errors.data[0].message
        assert httpx.delete(f"{server.url}/v1/files/{name}").status_code == 200
        headers = {"content-type": f"multipart/form-data; boundary={'y' * 5000}"}
        assert "no form" in httpx.post(f"{server.url}/v1/files", content=b"x", headers=headers).text
        assert httpx.get(f"{server.url}/v1/files?limit={'0' * 9 + '1' * 6000}").status_code == 400


def test_a_page_that_was_let_in_may_upload(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept", origins=("https://chat.example",)) as server:
        form = {"files": {"file": ("a", b"x")}, "data": {"purpose": "batch"}}
        answer = httpx.post(f"{server.url}/v1/files", **form, headers={"origin": "https://chat.example"})
        assert answer.status_code == 200


def test_inputs_that_are_no_batch_fail(begin: Begin, tmp_path: Path) -> None:
    with begin(tmp_path / "kept", lines=3) as server:
        for lines, message in (
            ([b"\n"], "nothing to do"),
            ([request(str(one)) for one in range(4)], "more than the 3"),
        ):
            done = server.wait(server.batch(lines).id)
            assert (done.status, done.errors.data[0].code) == ("failed", "invalid_file")
            assert message in done.errors.data[0].message


def test_what_isn_t_answered_in_time_expires(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "WINDOW_S", 0.7)
    body = {"prompt": "Once", "max_tokens": 100, "ignore_eos": True}
    with begin(tmp_path / "kept") as server:
        lines = [*(request(str(one), body=body) for one in range(900)), b"{\n"]
        done = server.wait(server.batch(lines).id)
        assert done.status == "expired"
        assert done.expired_at is not None
        counts = done.request_counts
        assert (counts.total, counts.completed + counts.failed) == (901, 901)
        assert counts.failed > 0
        wrong = server.lines(done.error_file_id)
        assert {line["error"]["code"] for line in wrong} <= {"batch_expired", "invalid_json_line"}
        right = server.lines(done.output_file_id) if done.output_file_id else []
        names = [line["custom_id"] for line in (*right, *wrong)]
        assert sorted(names, key=str) == sorted([*(str(one) for one in range(900)), None], key=str)


def test_answers_count_to_what_a_key_may_keep(begin: Begin, tmp_path: Path) -> None:
    lines = [request(str(one)) for one in range(200)]
    size = sum(len(json.dumps(line)) + 1 for line in lines)
    with begin(tmp_path / "kept", space=size + 20_000) as server:
        done = server.wait(server.batch(lines).id)
        assert (done.status, done.errors.data[0].code) == ("failed", "storage_limit_exceeded")
        assert 0 < done.request_counts.completed < 200
        assert len(server.lines(done.output_file_id)) == done.request_counts.completed


def test_what_isn_t_its_own_is_left_alone_and_two_servers_don_t_share(begin: Begin, tmp_path: Path) -> None:
    own, half = f"file-{'0' * 24}.data", f".file-{'0' * 24}.data.0a1b.tmp"
    for folder, names in (("files", ["notes.txt", "file-mine.data", ".hidden", own, half]), ("batches", ["mine"])):
        (tmp_path / "kept" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "kept" / folder / name).write_text("x")
    (tmp_path / "kept" / "batches" / "batch_of_photos").mkdir()
    (tmp_path / "kept" / "batches" / f"batch_{'0' * 24}").mkdir()
    with begin(tmp_path / "kept"):
        assert sorted(os.listdir(tmp_path / "kept" / "files")) == [".hidden", "file-mine.data", "notes.txt"]
        assert sorted(os.listdir(tmp_path / "kept" / "batches")) == ["batch_of_photos", "mine"]
        with pytest.raises(ConfigError, match="another server keeps its batches in"):
            BatchApi(tmp_path / "kept")
    with begin(tmp_path / "kept"):
        pass


def test_off_by_default(begin: Begin) -> None:
    with begin(None) as server:
        for path in ("/v1/files", "/v1/batches", "/v1/files/x/content"):
            answer = httpx.get(f"{server.url}{path}")
            assert (answer.status_code, "--batch-dir" in answer.text) == (404, True)


def test_flags_that_can_t_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutset.cli import main

    (tmp_path / "file").write_text("")
    serve = ["serve", "story", "--port", "0", "--threads", "1", "--batch-dir"]
    for more, message in (
        ([str(tmp_path / "file")], "batches can't be kept in"),
        ([str(tmp_path / "kept"), "--batch-space", "0"], "--batch-space must be from 1"),
    ):
        assert main([*serve, *more]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    assert main([*serve, str(tmp_path / "kept")]) == 2
    assert "--batch-dir needs a package more: pip install 'cutset[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_is_killed_goes_on_with_its_batches(tmp_path: Path) -> None:
    """Killed three times; each line has its one answer, that of the server."""
    command = [sys.executable, "-m", "cutset.cli", "serve", "story", "--threads", "1", "--max-num-seqs", "4"]
    lines = [request(str(one), body=URLS["/v1/completions"] | {"seed": one, "max_tokens": 8}) for one in range(600)]
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url, name, done = f"http://127.0.0.1:{port}", "", None
    for turn in range(4):
        process = subprocess.Popen([*command, "--port", str(port), "--batch-dir", str(tmp_path / "kept")])
        server = Batching.__new__(Batching)
        server.url, server._clients = url, {}
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                time.sleep(0.05)
            if not turn:
                name = server.batch(lines).id
            if turn == 3:
                done = server.wait(name, seconds=200)
                found = server.lines(done.output_file_id)
            else:
                time.sleep(1.5 + turn)
        finally:
            process.kill()
            process.wait()
            server.close()
    assert done is not None
    assert (done.status, done.request_counts.completed) == ("completed", 600)
    assert [line["custom_id"] for line in found] == [str(one) for one in range(600)]
    with LLM("story", threads=1) as llm:
        for one in (0, 300, 599):
            params = SamplingParams(max_tokens=8, temperature=0.9, seed=one, logprobs=1)
            assert found[one]["response"]["body"]["choices"][0]["text"] == llm.generate("Once", params)[0].text
