"""What a token adds to a text by itself is what the decoder writes for it behind another one, or nobody says so."""

from __future__ import annotations

import random

import pytest

from cutset.models.text.tokenizer import Tokenizer
from models.tokenizers_to_test import DECODERS, gemma_like

NOT_SUMS = {"suffixes", "strip right", "replace in all", "a pattern in all", "bytes of bytes", "ctc"}
NOT_SUMS |= {"byte fallback, not joined"}


@pytest.mark.parametrize("name", [*DECODERS, "gemma"])
def test_texts_are_sums_of_their_tokens(name: str) -> None:
    tokenizer = Tokenizer(gemma_like() if name == "gemma" else DECODERS[name]())
    count = tokenizer.vocab_size + 3
    written = tokenizer.written(count)
    assert (written is None) == (name in NOT_SUMS)
    if written is None:
        return
    assert len(written) == count
    plain = [one for one in range(count) if written[one] and one not in tokenizer.special_ids]
    assert not any(written[one] for one in tokenizer.ids_without_token(count).tolist())
    compared, rng = 0, random.Random(5)
    for _ in range(1500):
        ids = rng.choices(plain, k=rng.randrange(1, 6))
        try:
            text = b"".join(written[one] for one in ids).decode()
        except UnicodeDecodeError:
            continue
        start = rng.choices([one for one in plain if len(written[one]) > 0 and written[one].isascii()], k=4)
        before = tokenizer.decode(start, skip_special_tokens=False)
        whole = tokenizer.decode([*start, *ids], skip_special_tokens=False)
        if not before:  # all of it was taken away at the beginning
            continue
        assert whole == before + text, (start, ids)
        compared += 1
    assert compared > 30
