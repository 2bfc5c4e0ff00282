"""Trains the bundled story model: `python training/train.py --out DIR`. No download, two cores, under half an hour."""

import argparse
import ctypes
import math
import os
import random
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the package is one directory up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Threads that spin while they wait make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.data import END, IGNORED, encode, make_tokenizer, packed, padded, single, tell_many
from training.export import check_target, write
from training.model import Llama, Shape

PROMPTS = ("Once upon a time", "One day", "The little dog", "Mia and Tom", "There was")
PACKED_FROM = 0.92  # the last part trains on full rows, which cost more and teach the far positions
HELD_OUT_SEED = 10**9


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write, replaced when training is done")
    parser.add_argument("--minutes", type=float, default=25, help="time for everything (default 25)")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps instead of by the clock")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stories", type=int, default=120_000, help="stories to train on (default 120000)")
    parser.add_argument("--tokens", type=int, default=3000, help="tokens a step, about (default 3000)")
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default 0.004)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the products")
    parser.add_argument("--quiet", action="store_true", help="no samples at the end")
    return parser.parse_args()


def keep_memory() -> None:
    """Make glibc keep freed memory: giving every activation back to the kernel costs a tenth of the time."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass  # another libc: only slower


def loss_of(model: Llama, inputs: Tensor, targets: Tensor, low: bool) -> Tensor:
    """Mean cross entropy; the products in bfloat16 if `low`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        logits = model(inputs)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def bfloat16_pays(model: Llama, inputs: Tensor, targets: Tensor) -> bool:
    """Whether bfloat16 products are faster here, by trying."""
    seconds = []
    for low in (False, True, False, True):
        start = time.perf_counter()
        torch.autograd.backward(loss_of(model, inputs, targets, low))
        seconds.append(time.perf_counter() - start)
    model.zero_grad()
    return seconds[3] < seconds[2]


def train(model: Llama, rows: list[list[int]], args: argparse.Namespace, deadline: float) -> tuple[int, int]:
    """Train until the deadline or for the steps asked for. Returns steps and tokens."""
    rng = random.Random(args.seed)
    short = single(rows, model.s.context, args.tokens, rng)
    full = packed(rows, model.s.context, args.tokens, rng)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=True)
    low = args.dtype == "bfloat16" or (args.dtype == "auto" and bfloat16_pays(model, *next(short)))
    print(f"products in {'bfloat16' if low else 'float32'}", flush=True)
    begin = shown = time.monotonic()
    steps = tokens = recent = 0
    average, done = 0.0, 0.0
    while done < 1:
        inputs, targets = next(full if done >= PACKED_FROM else short)
        warm = min(1.0, (steps + 1) / 100)
        rate = args.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, inputs, targets, low)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        count = int((targets != IGNORED).sum())
        steps, tokens, recent = steps + 1, tokens + count, recent + count
        keep = min(0.98, 1 - 1 / steps)
        average = keep * average + (1 - keep) * loss.item()
        now = time.monotonic()
        done = steps / args.steps if args.steps else (now - begin) / (deadline - begin)
        if now - shown > 10 or done >= 1:
            left = (now - begin) * (1 - done) / max(done, 1e-9)
            print(
                f"{min(done, 1):6.1%}  step {steps:6d}  loss {average:.4f}  rate {rate:.5f}  "
                f"{recent / (now - shown):6.0f} tokens/s  {max(left, 0) / 60:4.1f} min left",
                flush=True,
            )
            shown, recent = now, 0
    return steps, tokens


@torch.no_grad()
def held_out(model: Llama, rows: list[list[int]]) -> float:
    """Nats a token on stories that training did not see."""
    total = count = 0.0
    for start in range(0, len(rows), 16):
        inputs, targets = padded(rows[start : start + 16], model.s.context)
        known = float((targets != IGNORED).sum())
        total += float(loss_of(model, inputs, targets, low=False)) * known
        count += known
    return total / count


@torch.no_grad()
def continuation(model: Llama, tokenizer: Tokenizer, prompt: str, temperature: float, length: int = 300) -> str:
    """The prompt and what the model makes of it; temperature 0 takes the likeliest token."""
    ids = tokenizer.encode(prompt).ids
    while len(ids) < min(length, model.s.context) and ids[-1] != tokenizer.token_to_id(END):
        logits = model(torch.tensor([ids]))[0, -1]
        likely = torch.softmax(logits / temperature, -1) if temperature else logits
        ids.append(int(torch.multinomial(likely, 1)) if temperature else int(likely.argmax()))
    return str(tokenizer.decode(ids))


def main() -> None:
    """Tell stories, train on them, measure, write."""
    args = arguments()
    check_target(args.out)
    start = time.monotonic()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    print(f"telling {args.stories} stories", flush=True)
    texts = tell_many(args.stories, args.seed)
    tokenizer = make_tokenizer(texts[:20_000], Shape.vocab)
    rows = encode(tokenizer, texts)
    test_rows = encode(tokenizer, tell_many(min(1000, args.stories // 10), HELD_OUT_SEED))
    model = Llama(Shape())
    params = sum(p.numel() for p in model.parameters())
    print(
        f"{sum(map(len, rows)):,} tokens, {sum(map(len, rows)) / sum(map(len, texts)):.3f} a character; "
        f"model of {params:,} parameters; {time.monotonic() - start:.0f} s so far",
        flush=True,
    )
    # What comes after training (measuring, samples, writing) takes some 20 s on two cores, more on busy ones.
    deadline = start + max(args.minutes * 60 - 60, 0.8 * args.minutes * 60)
    steps, tokens = train(model, rows, args, deadline)
    for weight in model.parameters():
        weight.data = weight.data.half().float()  # measure what is written
    loss = held_out(model, test_rows)
    print(f"held-out loss {loss:.4f} nats a token over {len(test_rows)} stories", flush=True)
    for prompt in () if args.quiet else PROMPTS:
        print(f"\n--- temperature 0.8: {continuation(model, tokenizer, prompt, 0.8)}", flush=True)
    minutes = (time.monotonic() - start) / 60
    cpu = time.process_time() / 60
    facts = {
        "params": params,
        "cpu": cpu,
        "stories": args.stories,
        "steps": steps,
        "tokens": tokens / 1e6,
        "minutes": minutes,
    }
    write(args.out, model, tokenizer, {**facts, "threads": args.threads, "heldout": len(test_rows), "loss": loss})
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"\nwrote {args.out}: {size:,} bytes, {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing was written")
