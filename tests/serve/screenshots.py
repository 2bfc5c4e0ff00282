"""Takes the dashboard's pictures for the documentation: python -m tests.serve.screenshots DIRECTORY [VIDEO]"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

LAPTOP = {"width": 1200, "height": 900}


@contextlib.contextmanager
def command(*words: str, until: str) -> Iterator[re.Match[str]]:
    """Runs `cutset …` until the context ends; gives what `until` found on its stderr."""
    process = subprocess.Popen([sys.executable, "-m", "cutset", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(found for line in process.stderr if (found := re.search(until, line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or its pipe fills up
        yield found
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 450, "n": 16, "ignore_eos": True}
    wanted = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    wanted.add_header("content-type", "application/json")
    urllib.request.urlopen(wanted).read()


def take(browser: Any, url: str, path: Path, scheme: str, ready: str, seconds: float) -> None:
    page = browser.new_context(color_scheme=scheme, viewport=LAPTOP).new_page()
    page.goto(url)
    page.wait_for_selector(ready, timeout=120_000, state="attached")
    page.wait_for_timeout(1000 * seconds)
    page.screenshot(path=path, full_page=True)
    page.close()


def main(folder: Path, source: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = "224x320" if source.startswith("generated") else "240x360"
    run = ("stream", "run", "alexnet", "--source", source, "--size", size, "--rate", "6", "--workers", "2", "--quiet")
    run += ("--objective", "throughput")  # which splits the network
    listen = f"shm://screenshots-{os.getpid()}"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        with (
            command("accelerator", "story", "--listen", listen, "--threads", "1", until="listening"),
            command("serve", "story", "--offload", listen, "--port", "0", until=r"http://\S+?:\d+") as found,
        ):
            asking = [threading.Thread(target=ask, args=(found[0],)) for _ in range(4)]
            threading.Timer(3.0, lambda: [one.start() for one in asking]).start()
            take(browser, found[0], folder / "dashboard-offload.png", "light", "#requests tr:nth-child(3)", 2)
            for one in asking:
                one.join()
        with command("serve", "story", "--stages", "3", "--port", "0", until=r"http://\S+?:\d+") as found:
            asking = [threading.Thread(target=ask, args=(found[0],)) for _ in range(2)]
            threading.Timer(3.0, lambda: [one.start() for one in asking]).start()
            take(browser, found[0], folder / "dashboard-stages.png", "light", "#stage-rows tr:nth-child(3)", 7)
            for one in asking:
                one.join()
        with command(*run, "--dashboard", "0", until=r"http://\S+?:\d+") as found:
            take(browser, found[0], folder / "dashboard-stream.png", "dark", "#gantt rect:nth-of-type(40)", 8)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "generated:224x320")
