"""docs/threat-model.md names tests and files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_threat_model_points_at_exists():
    text = (ROOT / "docs/threat-model.md").read_text()
    tests = set(re.findall(r"`(tests/[\w/.]+)`", text))
    links = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text)}
    assert len(tests) > 5
    assert [path for path in (*(ROOT / test for test in tests), *links) if not path.exists()] == []


def test_every_mode_has_a_column():
    from cutset.offload.modes import MODES

    head = next(line for line in (ROOT / "docs/threat-model.md").read_text().splitlines() if "`plain`" in line)
    assert re.findall(r"`([\w+]+)`", head) == list(MODES)
