"""The same attacks on the real thing: the client of cutset.offload, an accelerator, and a man in the middle.

An outcome that `succeeded` is a hole. The figure says why it held.
"""

from __future__ import annotations

import atexit
import functools
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attacks.proxy import Middle, Proxy, Sent
from attacks.setting import Array, Outcome
from attacks.statistics import failures, repeats
from cutset import LLM, SamplingParams
from cutset.config import load_settings
from cutset.errors import CutsetError, IntegrityError, OffloadError
from cutset.offload.messages import Hello, Multiply, Product, Refused

__all__ = ["P", "Run", "capture", "residues", "run"]

P = 2**31 - 1
PROMPT = "Once upon a time, there was a little girl named Lily."
TOKENS = 6
LINK = "inproc"  # what the client reaches the man in the middle over; with shm it makes its calls in native code


@dataclass(frozen=True, slots=True)
class Run:
    """What the client said, how it ended, and every frame that left it."""

    tokens: tuple[int, ...]
    error: CutsetError | None
    wire: list[Sent]
    prompt: Array  # ids
    states: list[tuple[str, Array, Array]]  # matrix, the first integers before masking, and after

    @property
    def products(self) -> list[Sent]:
        """The frames that ask for a product."""
        return [sent for sent in self.wire if isinstance(sent.message, Multiply)]


@functools.cache
def accelerator() -> str:
    """The address of an honest accelerator in this process, which serves until the process ends."""
    from cutset.offload.accelerator.loading import open_accelerator

    address, stop = "inproc://attacked", threading.Event()

    def serve() -> None:
        server = open_accelerator("story", address, load_settings({"threads": 1}))
        ready.set()
        server.serve(stop.is_set)
        server.close()

    def end() -> None:
        stop.set()
        thread.join(10)

    ready, thread = threading.Event(), threading.Thread(target=serve, daemon=True)
    thread.start()
    atexit.register(end)
    if not ready.wait(60):
        raise RuntimeError("the accelerator didn't start")
    return address


def run(middle: Middle | None = None, *, pads: Middle | None = None, prompt: str = PROMPT, **options: Any) -> Run:
    """Answers a prompt through the man in the middle; with `pads`, another one stands before a pad server.

    `options` are settings of the client."""
    middle = middle or Middle()
    proxies = [Proxy(accelerator(), each, LINK) for each in (middle, pads) if each is not None]
    options |= {"offload": proxies[0].address, "offload_timeout": 5, "threads": 1}
    if pads is not None:
        options |= {"pads_from": proxies[1].address, "pads_same_host": True}
    states: list[tuple[str, Array, Array]] = []
    tokens: tuple[int, ...] = ()
    ids = np.empty(0, dtype=np.int64)
    error: CutsetError | None = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="mode plain")
            llm = LLM("story", **options)
        with llm:
            ids = np.asarray(llm.encode(prompt))
            if llm.offload is not None and llm.offload.linears.pads is not None and LINK == "shm":
                llm.offload.linears.pads.fill(len(ids) + TOKENS)
            if llm.offload is not None and LINK != "shm":  # being watched is slow
                llm.offload.linears.watch = lambda *seen: states.append((seen[0], np.array(seen[1]), np.array(seen[2])))
            [output] = llm.generate([prompt], SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True))
            tokens = tuple(output.token_ids)
    except CutsetError as raised:
        error = raised
    finally:
        for proxy in proxies:
            proxy.close()
    return Run(tokens, error, middle.wire, ids, states)


@functools.cache
def capture(number: int = 0) -> Run:
    """An honest run that is looked at by several attacks; another number is another run of the same prompt."""
    return run()


@functools.cache
def right() -> tuple[int, ...]:
    """What the model says, run here."""
    with LLM("story", mode="local", threads=1) as llm:
        [output] = llm.generate([PROMPT], SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True))
        return tuple(output.token_ids)


def residues(found: Run) -> list[Array]:
    """All that left the client as rows."""
    return [array for sent in found.wire for array in sent.arrays]


# ---- reading


def noise_is_no_pad() -> Outcome:
    found = capture()
    refused = failures(residues(found))
    count = sum(rows.size for rows in residues(found))
    return Outcome(bool(refused), f"{count:,} residues pass every test of uniformity")


def mask_reuse() -> Outcome:
    first, second = (residues(capture(number)) for number in (0, 1))
    same, allowed = repeats(first, second)
    differences = [((a.astype(np.int64) - b) % P).astype(np.uint32) for a, b in zip(first, second, strict=True)]
    held = same <= allowed and not failures(differences)
    return Outcome(not held, f"one prompt twice: {same} of {sum(a.size for a in first):,} residues the same, by chance")


def mask_beside_value() -> Outcome:
    found = capture()
    single = all(len(sent.arrays) == 1 and sent.arrays[0].dtype == np.uint32 for sent in found.products)
    others = [sent for sent in found.wire if not isinstance(sent.message, Hello | Multiply)]
    sums = [(a + b.astype(np.int64)) % P for a, b in _pairs(found)] + [
        (a - b.astype(np.int64)) % P for a, b in _pairs(found)
    ]
    held = single and not others and not failures([total.astype(np.uint32) for total in sums])
    return Outcome(not held, "one array a message; sums and differences of messages are uniform")


def _pairs(found: Run) -> list[tuple[Array, Array]]:
    """Consecutive messages of one shape."""
    last: dict[tuple[int, ...], Array] = {}
    pairs = []
    for rows in residues(found):
        if rows.shape in last:
            pairs.append((last[rows.shape], rows))
        last[rows.shape] = rows
    return pairs


def no_product_of_secrets() -> Outcome:
    """Queries, keys and attention stay at the client: only products with public matrices are asked for."""
    found = capture()
    asked = [sent.message.matrix for sent in found.products if isinstance(sent.message, Multiply)]
    matrices = max(asked) + 1
    steps, rest = divmod(len(asked), matrices)
    held = not rest and asked == list(range(matrices)) * steps
    return Outcome(not held, f"attention isn't sent: {matrices} products with public matrices a step")


def known_plaintext() -> Outcome:
    """Whoever knows a row's integers knows its mask; used on any other message that mask must give nothing."""
    found = capture()
    masks = [((after.astype(np.int64) - before) % P) for _, before, after in found.states]
    width = min(len(mask) for mask in masks)
    table = np.array([mask[:width] for mask in masks])
    opened = [((rows[:, :width].astype(np.int64) - table[0]) % P).astype(np.uint32) for rows in residues(found)[1:]]
    distinct = len({tuple(mask) for mask in table}) == len(table)
    return Outcome(
        bool(failures(opened)) or not distinct, f"the mask of one message opens none of {len(opened)} others"
    )


def ids_in_clear() -> Outcome:
    """No array of ids or hidden states, and the head's rows don't point at the answer."""
    found = capture()
    last = max(sent.message.matrix for sent in found.products if isinstance(sent.message, Multiply))
    heads = [sent.arrays[0] for sent in found.products if getattr(sent.message, "matrix", -1) == last]
    embedding = _embedding()
    guesses = [int(np.argmax(embedding @ _centred(rows[-1]))) for rows in heads]
    hits = sum(guess == token for guess, token in zip(guesses, found.tokens, strict=False))
    typed = all(array.dtype == np.uint32 and array.ndim == 2 for array in residues(found))
    return Outcome(hits > 2 or not typed, f"no ids are sent; the head's rows give {hits} of {len(found.tokens)} tokens")


@functools.cache
def _embedding() -> Array:
    from cutset.models.files.source import open_source
    from cutset.models.registry import BUNDLED

    return open_source(BUNDLED["story"]).tensors["model.embed_tokens.weight"].float32().astype(np.float64)


def _centred(row: Array) -> Array:
    value = row.astype(np.int64)
    return np.where(value > P // 2, value - P, value).astype(np.float64)


class _Refuses(Middle):
    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if isinstance(asked.message, Multiply):
            return [Sent(Refused("masked products are not supported", asked.message.call), ())]
        return [answer]


def downgrade() -> Outcome:
    found = run(_Refuses())
    clear = [array for array in residues(found) if array.dtype != np.uint32]
    held = isinstance(found.error, OffloadError) and not clear and not found.tokens and len(found.products) == 1
    return Outcome(not held, f"{_name(found)}; nothing is sent after it, nothing in clear")


class _Generous(Middle):
    """Sends norms along with every product, and puts a field more into its welcome."""

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        return [Sent(answer.message, (*answer.arrays, np.full(64, 1e9, dtype=np.float32)))]


def norms_from_the_accelerator() -> Outcome:
    found = run(_Generous())
    held = found.error is not None and not found.tokens
    return Outcome(not held, f"norms are the client's own files; {_name(found)}")


# ---- lying


class _Liar(Middle):
    """Changes the arrays of one answer, well within the run."""

    at = 7

    def __init__(self, lie: Callable[[Array], Array]) -> None:
        super().__init__()
        self.lie, self.seen, self.told, self.before = lie, 0, 0, 0

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if isinstance(answer.message, Product):
            self.seen += 1
            if self.seen == self.at:
                self.told, self.before = self.told + 1, len(self.wire)
                return [Sent(answer.message, tuple(self.lie(array) for array in answer.arrays))]
        return [answer]


def _caught(middle: _Liar | _Replays | _Swaps, found: Run | None = None) -> Outcome:
    """Held if the lie was told, nothing was said, the session ended at once, and nothing more was sent."""
    found = found or run(middle)
    held = middle.told == 1 and isinstance(found.error, IntegrityError) and not found.tokens
    if more := len(middle.wire) - middle.before if middle.wire is found.wire else 0:  # else it is a pad server's
        return Outcome(True, f"{more} more messages were sent after the lie")
    return Outcome(not held, _name(found) if middle.told else "the lie was never told")


def _name(found: Run) -> str:
    if found.error is None:
        return "no error" if found.tokens == right() else f"WRONG ANSWER {found.tokens}"
    words = str(found.error).split(". ")[0].split(": ")[0]
    shown = words.partition(" gave ")[2] or words.partition(" answered ")[2] or words.partition(" refused")[0]
    return f"{type(found.error).__name__}: {shown or words}"


def _one(change: Callable[[Any], Any], where: Callable[[Array], Array] | None = None) -> Callable[[Array], Array]:
    """A lie about one element: the first for which `where` holds."""

    def lie(array: Array) -> Array:
        changed = np.array(array)
        places = np.argwhere(where(array) if where is not None else np.ones(array.shape, dtype=bool))
        at = tuple(places[len(places) // 2])
        changed[at] = change(int(array[at]))
        return changed

    return lie


def tamper_one_element() -> Outcome:
    return _caught(_Liar(_one(lambda value: (value + 1) % P)))


def add_p() -> Outcome:
    return _caught(_Liar(_one(lambda value: value + P)))


def error_of_half_the_ring() -> Outcome:
    def adds(error: int) -> Outcome:
        return _caught(_Liar(_one(lambda value: (value + error) % P)))

    outcomes = [adds(error) for error in (2**30, P // 2, P - 1)]
    top = _caught(_Liar(_one(lambda value: value ^ 2**31)))
    worst = next((outcome for outcome in outcomes if outcome.succeeded), top)
    return replace(worst, succeeded=any(outcome.succeeded for outcome in [*outcomes, top]))


def truncated_reply() -> Outcome:
    shapes: list[Callable[[Array], Array]] = [lambda a: a[:-1], lambda a: a[:, :-1], lambda a: a[:1], lambda a: a[:0]]
    outcomes = [_caught(_Liar(shape)) for shape in shapes]
    return Outcome(any(outcome.succeeded for outcome in outcomes), outcomes[0].figure)


def oversized_reply() -> Outcome:
    shapes: list[Callable[[Array], Array]] = [
        lambda a: np.concatenate([a, a[:1]]),
        lambda a: np.repeat(a, 64, axis=0),
        lambda a: a.astype(np.uint64),
        lambda a: a.astype(np.float32),
    ]
    outcomes = [_caught(_Liar(shape)) for shape in shapes]
    return Outcome(any(outcome.succeeded for outcome in outcomes), outcomes[0].figure)


class _Replays(Middle):
    """Answers with what was right the last time that this matrix was asked with as many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[tuple[int, int], tuple[Array, ...]] = {}
        self.told = self.before = 0

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if not isinstance(asked.message, Multiply):
            return [answer]
        key = asked.message.matrix, len(asked.arrays[0])
        old = self.last.setdefault(key, answer.arrays)
        if old is answer.arrays or self.told:
            return [answer]
        self.told, self.before = 1, len(self.wire)
        return [Sent(answer.message, old)]


def replay() -> Outcome:
    return _caught(_Replays())


class _Swaps(Middle):
    """Multiplies with the matrix of the same site in the next layer, once."""

    def __init__(self) -> None:
        super().__init__()
        self.told = self.before = 0

    def request(self, sent: Sent) -> Sent:
        if isinstance(sent.message, Multiply) and sent.message.matrix == 0 and not self.told:
            self.told, self.before = 1, len(self.wire)
            return Sent(Multiply(sent.message.call, 4), sent.arrays)
        return sent


def swapped_layers() -> Outcome:
    return _caught(_Swaps())


def lying_pad_server() -> Outcome:
    # About the second row of a block, which a short answer uses up.
    def second(block: Array) -> Array:
        return np.broadcast_to(np.arange(len(block))[:, None] == 1, block.shape)

    pads = _Liar(_one(lambda value: (value + 1) % P, second))
    pads.at = 3
    found = run(Middle(), pads=pads)
    outcome = _caught(pads, found)
    named = found.error is not None and "pad server" in str(found.error)
    return Outcome(outcome.succeeded or not named, f"{outcome.figure}; it is named")
