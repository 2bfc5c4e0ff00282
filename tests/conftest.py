"""What many tests need: the data that lies beside the project, and small models."""

from __future__ import annotations

from pathlib import Path

import pytest

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
