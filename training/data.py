"""Tokenizer and batches."""

import random
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from training.stories import stories

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
Batch = tuple[Tensor, Tensor]  # inputs and targets, both [rows, time]
IGNORED = -100  # the target that cross entropy leaves out


def make_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """A byte-level BPE that can spell any text; encoding puts <|begin|> in front. Ids: begin 0, end 1, pad 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def tell_many(count: int, seed: int) -> list[str]:
    """Different stories, `count` of them."""
    return list(islice(stories(seed), count))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, from <|begin|> to <|end|>."""
    end = tokenizer.token_to_id(END)
    assert end is not None
    return [[*encoding.ids, end] for encoding in tokenizer.encode_batch(list(texts))]


def single(rows: Sequence[Sequence[int]], context: int, budget: int, rng: random.Random) -> Iterator[Batch]:
    """Batches of one story a row, stories of like length together; about `budget` tokens each, without end."""
    while True:
        # The jitter mixes the groups anew in every round.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + 8 * rng.random())
        groups: list[list[int]] = []
        for i in order:
            if not groups or (len(groups[-1]) + 1) * min(len(rows[i]), context) > budget:
                groups.append([])
            groups[-1].append(i)
        rng.shuffle(groups)
        for group in groups:
            yield padded([rows[i] for i in group], context)


def padded(rows: Sequence[Sequence[int]], context: int) -> Batch:
    """Rows side by side, cut at the context, filled up with ids that the loss leaves out."""
    longest = max(map(len, rows)) - 1
    time = min(longest + -longest % 32, context)  # matrix units like round sizes
    inputs = torch.full((len(rows), time), 2)
    targets = torch.full((len(rows), time), IGNORED)
    for i, row in enumerate(rows):
        piece = torch.tensor(row[: time + 1])
        inputs[i, : len(piece) - 1], targets[i, : len(piece) - 1] = piece[:-1], piece[1:]
    return inputs, targets


def packed(rows: Sequence[Sequence[int]], context: int, budget: int, rng: random.Random) -> Iterator[Batch]:
    """Batches whose rows are full of stories, one after the other, without end. Yields [rows, context] twice."""
    while True:
        batch: list[list[int]] = []
        for _ in range(max(1, budget // context)):
            line: list[int] = []
            while len(line) <= context:
                line.extend(rows[rng.randrange(len(rows))])
            batch.append(line[: context + 1])
        block = torch.tensor(batch)
        yield block[:, :-1], block[:, 1:]
