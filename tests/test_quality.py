"""What integers cost: little, on text that a trained model finds likely."""

from __future__ import annotations

from pathlib import Path

from cutset.bench.quality import measure_quality

NAMES = ("Lily", "Tom", "Tim", "Mia", "Sara", "Ben", "Max", "Anna", "Sam", "Lucy", "Jack", "Amy")
PROMPTS = [f"Once upon a time, a little girl named {name} lived in a" for name in NAMES]
PROMPTS += [f"One day, {name} went to the park with his mom. He saw a" for name in NAMES]


def test_int8_and_exact_lose_little(story_dir: Path) -> None:
    found = measure_quality(str(story_dir), PROMPTS, ("int8", "exact"))
    assert found["int8"].positions > 2000
    assert found["int8"].rise <= 0.01
    assert found["int8"].top1 >= 0.98
    assert found["exact"].rise <= 0.005
    assert found["exact"].top1 >= 0.98
    assert found["int8"].top1 < 1  # eight bits can't be free: equality would mean that nothing was quantised
