"""What many tests need: the data that lies beside the project, and small models."""

from __future__ import annotations

from pathlib import Path

import pytest

import skips
from smollm2 import FILE

# Real models and videos beside the project; tests that need them skip where they are absent.
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor write what the user's own runs remember."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def story_dir() -> Path:
    """TinyStories-656K, a trained Llama model with its tokenizer."""
    if not (DATA / "story" / "config.json").is_file():
        pytest.skip("the story model is not beside the project")
    return DATA / "story"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in GGUF, Q4_1."""
    if not FILE.is_file():
        pytest.skip("the SmolLM2 file is not in the cache: make smollm2")
    return FILE


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `.ci/run` a skip that tests/skips.py doesn't allow fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not skips.strict() or hasattr(session.config, "workerinput") or reporter is None:
        return
    reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    if wrong := skips.not_allowed(reasons):
        reporter.write_line("")
        for reason in wrong:
            reporter.write_line(f"not an allowed skip (tests/skips.py): {reason}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
