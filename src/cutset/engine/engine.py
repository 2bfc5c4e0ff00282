"""The engine: requests go in, steps are run, pieces of text come out. Not thread-safe: one thread owns it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cutset.engine.blocks import BlockPool
from cutset.engine.constraint import MaskThread, Restriction
from cutset.engine.deltas import end_deltas, take_scores, token_delta, why_no_token
from cutset.engine.detokenizer import StreamingTokenizer
from cutset.engine.drafting import Drafter
from cutset.engine.embedding import EmbeddingSteps
from cutset.engine.grammar_compiler import GrammarCompiler
from cutset.engine.intake import check_fits, check_prompt, check_sizes, open_request, restriction_of
from cutset.engine.local_pipeline import LocalPipeline
from cutset.engine.outputs import Delta, EngineStats
from cutset.engine.params import SamplingParams
from cutset.engine.prefix_store import PrefixStore, StoredBlocks
from cutset.engine.request import Request
from cutset.engine.resumption import Resumption
from cutset.engine.sampler import Choice
from cutset.engine.scheduler import RESTORED_BYTES, Scheduler
from cutset.engine.sequence import Sequence
from cutset.engine.speculation import Speculation
from cutset.engine.stage_blocks import BlocksResult, StagedBlocks
from cutset.engine.stage_item import MOST_ROWS, MOST_SEQUENCES, StageItem, StageSetup
from cutset.engine.states import StatePool
from cutset.engine.step import Step
from cutset.engine.step_pipeline import StagesLost, StepPipeline
from cutset.errors import EngineError, RequestError
from cutset.models.run.executor import Executor, LoadedAdapter

__all__ = ["Engine"]

log = logging.getLogger(__name__)
DRAFTING = 8  # sequences with states of which all drafts find room, unless it is said how many
SCORED_BYTES = 64 << 20  # logits of a step that score prompts
RESTING = 2.0  # seconds that stages may take to keep blocks while nobody waits for them


class Engine:
    """Runs requests on an executor, or on the stages of a pipeline, many at a time.

    A step is `schedule → executor.forward → choose → update`, and gives the deltas of the sequences that moved:

        engine.add("a", prompt_ids, SamplingParams(temperature=0))
        while engine.has_work:
            for delta in engine.step():
                print(delta.text, end="")

    What a request gets depends on its own prompt, parameters and seed alone if the executor's rows do.

    Several steps may be on their way through a pipeline: while one is in its last stage, the next one is in the first.
    A sequence decodes in one of them at a time. When stages are lost, it is computed again from the tokens it has.
    """

    def __init__(
        self,
        model: Executor | StepPipeline,  # a pipeline's owner closes it
        tokenizer: StreamingTokenizer,
        *,
        blocks: int,  # of the KV cache
        block_size: int = 16,  # tokens
        max_batch_tokens: int = 512,  # rows of a step
        max_num_seqs: int = 64,  # sequences that hold blocks at a time
        max_model_len: int | None = None,  # tokens of prompt and output; None: what the model is made for
        prefix_caching: bool = True,
        kv_dtype: str = "auto",  # of the cache; see Executor.new_cache
        store: PrefixStore | None = None,  # keeps blocks on disk; its owner closes it
        kept_states: int = 16,  # checkpoints, by which prefixes are used again where the decoder has states
        without_token: Iterable[int] = (),  # ids for which the tokenizer has no token: never drawn, and in no prompt
        eos_token_ids: Iterable[int] | None = None,  # None: the model's
        drafter: Drafter | None = None,  # with it, tokens are drafted and judged several in a step
        draft_tokens: int = 8,  # of a sequence in a step, at most
        draft_always: bool = False,  # that many in every step, so that their number tells nothing
        draft_states: int | None = None,  # states that are kept before drafts; None: those of a few sequences
        grammars: GrammarCompiler | None = None,  # of the tokenizer's vocabulary; without it none are kept
        clock: Callable[[], float] = time.perf_counter,  # seconds
    ) -> None:
        self._pipeline = model if isinstance(model, StepPipeline) else LocalPipeline([model])
        spec = self._pipeline.spec
        check_sizes(blocks, block_size, max_batch_tokens, max_num_seqs, max_model_len, spec.longest)
        self.executor = None if isinstance(model, StepPipeline) else model
        self.vocab_size = spec.vocab_size
        self._without_token = np.zeros(spec.vocab_size, dtype=np.bool_)
        self._without_token[list(without_token)] = True
        self.max_model_len = spec.context if max_model_len is None else max_model_len
        self.cache_tokens = blocks * block_size
        eos = spec.eos_token_ids if eos_token_ids is None else eos_token_ids
        self.eos_token_ids = frozenset(one for one in eos if 0 <= one < self.vocab_size)
        self._tokenizer, self.clock = tokenizer, clock
        states: StatePool | None = None
        if spec.recurrent_layers:
            if draft_states is None:
                draft_states = draft_tokens * (max_num_seqs if draft_always else min(max_num_seqs, DRAFTING))
            ahead = draft_states if drafter is not None else 0
            states = StatePool(max_num_seqs, kept_states if prefix_caching else 0, ahead)
        masked = tuple(np.flatnonzero(self._without_token).tolist())
        kept_as: Literal["auto", "int8"] = "int8" if kv_dtype == "int8" else "auto"
        rows, sequences = min(max_batch_tokens, MOST_ROWS), min(max_num_seqs, MOST_SEQUENCES)
        slots = 0 if states is None else states.slots
        self._pipeline.open(StageSetup(blocks, block_size, slots, kept_as, masked, rows, sequences))
        self._cache = self._pipeline.cache
        self._pool = BlockPool(blocks)
        self._staged: StagedBlocks | None = None
        if self._pipeline.keeps_blocks and prefix_caching and states is None:
            self._staged = StagedBlocks(self._pool, block_size * 8 * spec.kv_floats, RESTORED_BYTES)
        stored: StoredBlocks | StagedBlocks | None = self._staged
        if store is not None:
            if states is not None or not prefix_caching or self._cache is None:
                raise EngineError(
                    "a store of prefixes needs prefix_caching, and a model without states of sequences in one place"
                )
            stored = StoredBlocks(store, self._cache)
        self._speculation: Speculation | None = None
        if drafter is not None:
            self._speculation = Speculation(drafter, draft_tokens, vocab_size=spec.vocab_size, constant=draft_always)
        self._grammars, self._masks = grammars, MaskThread()
        make_scheduler = partial(
            Scheduler,
            self._pool,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            max_num_seqs=max_num_seqs,
            max_model_len=self.max_model_len,
            states=states,
        )
        self._scheduler = make_scheduler(
            prefix_caching=prefix_caching,
            stored=stored,
            speculation=self._speculation,
            most_scored=max(1, SCORED_BYTES // (4 * spec.vocab_size)),
        )
        self._requests: dict[str, Request] = {}  # the unfinished ones
        self._arrivals = count()
        self.embedding = EmbeddingSteps(make_scheduler(prefix_caching=False), tokenizer, self._arrivals)
        self._embedded = False  # by the step that was made last
        self._numbers = count()  # of steps
        self._in_flight: dict[int, Step] = {}  # those that were sent, by their numbers
        self._asking: dict[int, int] = {}  # messages on blocks that were sent, and how many they ask for
        self._came = -math.inf  # when the last result came
        self._steps = self._prefill_rows = self._generated = self._losses = 0

    def check(
        self, prompt_ids: Any, params: SamplingParams, restriction: Restriction | None = None
    ) -> NDArray[np.int32]:
        """The prompt as (tokens,) int32. Any thread may call it. `restriction` of `params`, where it is at hand.

        Raises RequestError for an empty prompt, ids outside the vocabulary or without a token, a grammar that can't be
        kept, ContextLengthError for too long a prompt.
        """
        longest = min(self.max_model_len, self.cache_tokens)
        ids = check_prompt(prompt_ids, params, without_token=self._without_token, longest=longest)
        if restriction is None:
            self.restriction(params)
        check_fits(len(ids), context=self.max_model_len, cache=self.cache_tokens)
        return ids

    def restriction(self, params: SamplingParams) -> Restriction | None:
        """What `params` allow; None for everything. Any thread may call it: for a grammar that is new it takes a while.

        Raises RequestError for a grammar that can't be kept, and ids outside the vocabulary.
        """
        return restriction_of(params, self._grammars, self._without_token) if params.constrained else None

    def add(
        self,
        request_id: str,
        prompt_ids: Any,  # (tokens,) a list or an array of whole numbers
        params: SamplingParams | None = None,
        *,
        background: bool = False,  # others go before it
        cache_salt: str | None = None,
        adapter: LoadedAdapter | None = None,  # of this engine's executor
        added: float | None = None,  # when it was handed in, by `clock`; None: now
        restriction: Restriction | None = None,  # of `params`, where it is at hand
        resumption: Resumption | None = None,  # where it goes on that another engine has begun
    ) -> None:
        """Queues a request. It shares blocks only with requests of the same `cache_salt` and `adapter`.

        A salt that nobody else knows keeps others from learning, by how soon their answer comes, what was asked.
        Raises what `check` raises, and RequestError for an id that is in use.
        """
        params = params or SamplingParams()
        if request_id in self._requests:
            raise RequestError(f"The request id {request_id!r} is in use: give another.")
        restriction = restriction or self.restriction(params)
        ids = self.check(prompt_ids, params, restriction)
        request = open_request(
            request_id,
            ids,
            params,
            background=background,
            arrival=next(self._arrivals),
            added=self.clock() if added is None else added,
            eos_ids=self.eos_token_ids,
            limit=min(self.max_model_len, self.cache_tokens),
            vocab_size=self.vocab_size,
            tokenizer=self._tokenizer,
            cache_salt=cache_salt,
            adapter=adapter,
            restriction=restriction,
            resumption=resumption,
        )
        self._requests[request_id] = request
        self._scheduler.add(request.sequences)

    @property
    def has_work(self) -> bool:
        """A request is unfinished, or an embedding."""
        return bool(self._requests) or self.embedding.has_work

    def step(self, meanwhile: Callable[[], object] = lambda: None) -> list[Delta]:
        """One forward pass with prefill and decode together. [] if there is nothing to do.

        Of a pipeline it is the next one that comes back; as many as go into it are sent before, and then `meanwhile` is
        called. [] if none comes soon. If a pass fails, the requests in it end with a delta that has an `error`.
        """
        failed = self._send(self._schedule)
        meanwhile()
        return failed + self._receive()

    def _schedule(self) -> Step | None:
        """The next step: those that embed and those that generate take turns."""
        if not self.embedding.has_work:
            return self._scheduler.schedule()
        turns = [self._scheduler.schedule, self.embedding.schedule]
        for schedule in turns if self._embedded else reversed(turns):
            if (step := schedule()) is not None:
                self._embedded = step.pooled
                return step
        return None

    def prefill(self, request_id: str) -> list[Delta]:
        """Computes the prompt of one request, before its turn, and samples the first token of each of its samples.

        Takes several forward passes if the prompt is longer than a step, none if it has been computed. Raises
        RequestError if there is no such request, or no room: then others have to end first.
        """
        request = self._requests.get(request_id)
        if request is None:
            raise RequestError(f"There is no unfinished request {request_id!r}.")
        deltas: list[Delta] = []
        while pending := self._scheduler.prefilling(request.sequences):
            failed = self._send(partial(self._scheduler.schedule_prefill, pending))
            if not self._in_flight and not failed and self._pipeline.depth:
                raise RequestError(f"There is no room to start request {request_id!r}: let others end, or abort them.")
            deltas += failed + self._receive()
        return deltas

    def decode(self) -> list[Delta]:
        """One forward pass with one row of each sequence whose prompt has been computed: a token more for each.

        [] if there is none. As in `step`, one that finds no block preempts the youngest; `prefill` brings it back.
        """
        deltas: list[Delta] = []
        while self._in_flight:  # what was sent before
            deltas += self._receive()
        deltas += self._send(self._scheduler.schedule_decode, 1)
        while self._in_flight:
            deltas += self._receive()
        return deltas

    def abort(self, request_id: str) -> list[Delta]:
        """Ends a request and frees its blocks at once. Its last deltas; [] if there is no such request."""
        request = self._requests.get(request_id)
        return [] if request is None else self._end(request, None)

    def stats(self) -> EngineStats:
        """How the engine stands, and what it has done since it started."""
        scheduler, pool = self._scheduler, self._pool
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks=pool.blocks,
            blocks_free=pool.free,
            blocks_used=pool.blocks - pool.free,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            stored_hits=scheduler.stored_hits,
            preemptions=scheduler.preemptions,
            steps=self._steps,
            prompt_tokens=self._prefill_rows,
            generated_tokens=self._generated,
            in_flight=len(self._in_flight),
            losses=self._losses,
            drafted_tokens=self._speculation.drafted if self._speculation else 0,
            accepted_tokens=self._speculation.accepted if self._speculation else 0,
        )

    def _send(self, schedule: Callable[[], Step | None], most: int | None = None) -> list[Delta]:
        """Sends steps while there are such and the pipeline takes them, at most `most`."""
        depth, groups = self._pipeline.depth, self._pipeline.groups
        if groups != self._scheduler.groups:
            self._scheduler.share_out(groups)
        depth = depth if most is None else min(most, depth)
        while len(self._in_flight) < depth:
            step = schedule()
            self._send_blocks()
            if step is None:
                break
            number = next(self._numbers)
            self._in_flight[number] = step
            step.sent = self.clock()
            drafted = [len(drafts) for drafts in step.drafts]
            if step.masks is not None:
                self._masks.begin(step.masks)
            try:
                asked = step.samplers, step.known, drafted, step.masks, step.scores, step.pooled
                self._pipeline.send(StageItem(number, step.batch, *asked))
            except Exception as error:
                del self._in_flight[number]
                return self._fail(step, error)
        return []

    def _send_blocks(self, *, rest: bool = False) -> None:
        """Tells stages what to keep and to fill, before the next step."""
        staged = self._staged
        while staged is not None and (item := staged.item(next(self._numbers), rest=rest)) is not None:
            self._asking[item.number] = len(item.fill)
            try:
                self._pipeline.send_blocks(item)
            except Exception as error:
                self._answered(item.number, error)

    def _answered(self, number: int, answer: BlocksResult | BaseException | None) -> None:
        wanted = self._asking.pop(number)
        if not isinstance(answer, BlocksResult):
            log.warning("stages couldn't say which blocks they keep: %s", answer)
            answer = BlocksResult(number, True, [False] * wanted)
        self._scheduler.restored(answer)

    def rest(self) -> None:
        """To be called when there is no work: has stages keep what they weren't told to yet."""
        if self._staged is None or self.has_work or not self._pipeline.depth:
            return
        self._send_blocks(rest=True)
        end = time.monotonic() + RESTING
        while self._asking and time.monotonic() < end:
            self._receive()

    def _receive(self) -> list[Delta]:
        """Takes the next result, if there is one to wait for."""
        if not self._in_flight and not self._asking and self._pipeline.depth:
            return []
        result = self._pipeline.receive(wait=True)
        if isinstance(result, StagesLost):
            return self._lose(result)
        if result is not None and result.number in self._asking:
            self._answered(result.number, result if isinstance(result, BlocksResult) else result.error)
            return []
        if result is None or isinstance(result, BlocksResult) or result.number not in self._in_flight:
            return []  # one of before a loss
        step = self._in_flight.pop(result.number)
        if result.hidden is not None and step.pooled:
            self.embedding.update(step, result.hidden)
            return []
        if result.choices is not None and not step.pooled:
            return self._update(step, result.choices)
        deltas = self._fail(step, result.error)
        if result.error is not None and not isinstance(result.error, Exception):
            raise result.error
        return deltas

    def _fail(self, step: Step, error: BaseException | None) -> list[Delta]:
        """What was being computed is lost, whatever it was. The blocks haven't been published, so nobody reads them."""
        if step.pooled:
            self.embedding.fail(step, error)
            return []
        self._scheduler.give_up(step)
        requests = dict.fromkeys(sequence.request for sequence in step.concerned())
        return [delta for request in requests for delta in self._end(request, error)]

    def _lose(self, lost: StagesLost) -> list[Delta]:
        log.warning("stages were lost, and running sequences are computed again: %s", lost.reason)
        self._losses += 1
        self._in_flight.clear()
        self._asking.clear()
        self._scheduler.lose(self.embedding.scheduler)
        if lost.error is not None:
            self.embedding.end(lost.error)
        requests = list(self._requests.values()) if lost.error is not None else []
        return [delta for request in requests for delta in self._end(request, lost.error)]

    def _update(self, step: Step, choices: list[Choice | None]) -> list[Delta]:
        now = self.clock()
        start, self._came = max(step.sent, self._came), now  # steps on their way together share the time
        self._steps += 1
        for request, rows in step.prefill_rows().items():
            request.count_prefill(rows, now - start)
            self._prefill_rows += rows
        if self._speculation is not None and step.decodes():
            self._speculation.costs.observe(len(step.batch.token_ids), now - start)
        self._scheduler.advance(step)
        wrong = EngineError("the logits of its prompt are not numbers")
        deltas = [delta for request in take_scores(step, choices) for delta in self._end(request, wrong)]
        row = 0
        for number, place in enumerate(step.wanted):
            drafts = step.drafts[number] if step.drafts else []
            own, row = choices[row : row + 1 + len(drafts)], row + 1 + len(drafts)
            sequence = step.sequences[place]
            if sequence.epoch == step.epochs[place]:  # else preempted, cancelled, or another sample of it failed
                deltas += self._continue(sequence, own, drafts, now)
        return deltas

    def _continue(self, sequence: Sequence, choices: list[Choice | None], drafts: list[int], now: float) -> list[Delta]:
        """Takes what was drawn for a sequence: behind each draft that was right, one more."""
        deltas: list[Delta] = []
        for kept, choice in enumerate(choices):
            if choice is None:
                return deltas + self._end(sequence.request, why_no_token(sequence))
            try:
                delta = token_delta(sequence, choice, now)
            except Exception as failure:  # the tokenizer's; the others go on
                return deltas + self._end(sequence.request, failure)
            deltas.append(delta)
            self._generated += 1
            right = kept < len(drafts) and drafts[kept] == choice.token_id
            if self._speculation is not None and drafts and (not right or delta.finish_reason is not None):
                self._speculation.judged(sequence, len(drafts), kept + right)
            if delta.finish_reason is not None:
                self._scheduler.finish(sequence)
            if delta.finished:
                self._forget(sequence.request)
            if delta.finish_reason is not None:
                break
            if not right:
                self._scheduler.go_back(sequence)
                break
            self._scheduler.accept(sequence)
        return deltas

    def _end(self, request: Request, error: BaseException | None) -> list[Delta]:
        deltas = end_deltas(request, error)
        for sequence in request.unfinished:
            self._scheduler.finish(sequence)
        self._forget(request)
        return deltas

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        request.sequences.clear()  # they know each other; its arrays would wait for the garbage collector
