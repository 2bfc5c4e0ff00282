"""Templates that one operation of never ends, or that take all memory: their process does, and nobody else notices."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cutset import LLM
from cutset.errors import RequestError, TokenizerError
from cutset.models.text import template_process
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.template_process import TemplateProcesses

TALK = [{"role": "user", "content": "hi"}]
NESTED = "{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(200) %}{% set ns.a = (ns.a, ns.a) %}"
NESTED += "{% set ns.b = (ns.b, ns.b) %}{% endfor %}"
ENDLESS = {
    "compared": NESTED + "{{ ns.a == ns.b }}",
    "ordered": NESTED + "{{ ns.a < ns.b }}",
    "hashed": NESTED + "{{ {ns.a: 1} | length }}",
    "printed": NESTED + "{{ ns.a }}",
    "joined": NESTED + "{{ 'x' ~ ns.a }}",
    "dumped": NESTED + "{{ ns.a | tojson }}",
    "looked for": NESTED + "{{ ns.a in [ns.b] }}",
    "made unique": NESTED + "{{ [ns.a, ns.b] | unique | list | length }}",
    "sorted": NESTED + "{{ [ns.a, ns.b] | sort | length }}",
    "formatted": NESTED + "{{ '%s' % (ns.a,) }}",
    "lists": NESTED.replace("(1,)", "[1]")
    .replace("(ns.a, ns.a)", "[ns.a, ns.a]")
    .replace("(ns.b, ns.b)", "[ns.b, ns.b]")
    + "{{ ns.a == ns.b }}",
}
HANGS_FOR_SOME = NESTED + "{{ ns.a == ns.b if messages[0].content == 'hang' else messages[0].content }}"


def processes(template: ChatTemplate) -> list[Any]:
    pool = template._templates
    assert isinstance(pool, TemplateProcesses)
    return [one._child.process for one in pool._free]


@pytest.mark.parametrize("what", ENDLESS)
def test_one_operation_without_end_is_given_up(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(ENDLESS[what])
    [process] = processes(template)
    monkeypatch.setattr(template_process, "SECONDS", 0.3)
    with pytest.raises(TokenizerError, match=r"isn't safe to run: (it takes longer|MemoryError|it ended)"):
        template.render(TALK)
    if not processes(template):  # it was ended, not left to itself
        assert process.poll() is not None
    template.close()


def test_all_of_memory_isn_t_there_for_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "SECONDS", 60.0)  # the memory must end it
    monkeypatch.setattr(template_process, "MEMORY", 200 << 20)
    grown = "{% set ns = namespace(l=['x' * 1000000]) %}{% for i in range(9) %}{% set ns.l = [ns.l, ns.l, ns.l] %}"
    template = ChatTemplate(grown + "{% endfor %}{{ ns.l | tojson | length }}")
    with pytest.raises(TokenizerError, match="isn't safe to run: MemoryError"):
        template.render(TALK)
    template.close()


def test_others_are_rendered_meanwhile_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(HANGS_FOR_SOME)
    monkeypatch.setattr(template_process, "SECONDS", 1.5)
    found: list[BaseException] = []

    def hang() -> None:
        try:
            template.render([{"role": "user", "content": "hang"}])
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    while processes(template):  # it has taken the one that is there
        time.sleep(0.001)
    for text in ("a", "b", "c"):
        assert template.render([{"role": "user", "content": text}]) == text
    assert thread.is_alive()
    thread.join()
    assert isinstance(found[0], TokenizerError)
    assert template.render([{"role": "user", "content": "d"}]) == "d"
    template.close()


def test_a_process_that_died_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    [process] = processes(template)
    process.kill()
    process.wait()
    assert template.render(TALK) == "hi"
    [other] = processes(template)
    assert other is not process
    template.close()
    assert other.poll() is not None


def test_a_process_has_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_API_KEY", "a-secret-of-the-server")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    template = ChatTemplate("{{ messages[0].content }}")
    [process] = processes(template)
    assert b"a-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    files = {os.path.realpath(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    assert not any("pipe" in name for name in files)
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    template.close()
    os.close(read)
    os.close(write)


def test_what_is_sent_comes_back_as_it_was() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}{{ x | tojson }}")
    odd = "ü\n\u2028\x00\ud800😀\ud83d\ude00" + "z" * 300_000
    x = {"a": [1, -0.5, 1e300, True, None, 2**70, "\u00a0"]}
    text = template.render([{"role": "user", "content": odd}], x=x)
    assert text == odd + '{"a": [1, -0.5, 1e+300, true, null, 1180591620717411303424, "\u00a0"]}'
    with pytest.raises(RequestError, match="can't be rendered: Exceeds the limit"):
        template.render(TALK, x=10**5000)
    template.close()


def test_an_interrupted_rendering_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(HANGS_FOR_SOME)
    [process] = processes(template)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(template_process._Process, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            template.render(TALK)
    assert process.poll() is not None
    assert template.render([{"role": "user", "content": "next"}]) == "next"  # and not what was asked before
    template.close()


@pytest.mark.parametrize("busy", [False, True])
def test_processes_end_with_whoever_started_them(busy: bool) -> None:
    code = f"""if True:
        import os, signal, threading
        from cutset.models.text import template_process
        from cutset.models.text.chat import ChatTemplate
        template_process.SECONDS = 0.3
        template = ChatTemplate({HANGS_FOR_SOME!r})
        print(template._templates._free[0]._child.process.pid, flush=True)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if {busy}:
            template.render([{{"role": "user", "content": "hang"}}])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    command, end = Path(f"/proc/{int(done.stdout)}/cmdline"), time.monotonic() + 30
    while command.exists() and command.read_bytes():  # empty: it has ended, and nobody has asked how
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_model_s_own_template_is_given_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutset.models.registry import BUNDLED

    for file in BUNDLED["story"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text(HANGS_FOR_SOME)
    with LLM(tmp_path, threads=1) as llm:
        assert llm.chat(TALK).text
        monkeypatch.setattr(template_process, "SECONDS", 0.3)
        with pytest.raises(TokenizerError, match="takes longer than"):
            llm.chat([{"role": "user", "content": "hang"}])
        monkeypatch.undo()
        assert llm.chat(TALK).text
