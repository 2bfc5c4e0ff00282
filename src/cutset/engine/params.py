"""What a request asks of the sampler. Names and meanings are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from reprlib import Repr
from typing import Any, Self

from cutset.engine.grammar import Grammar
from cutset.engine.structured_params import StructuredOutputsParams, as_grammar
from cutset.errors import RequestError

__all__ = ["MAX_LOGPROBS", "MAX_N", "MAX_STOP_IDS", "MAX_STOP_LENGTH", "MAX_STOP_STRINGS", "SamplingParams"]

MAX_N = 128  # samples of one prompt
MAX_LOGPROBS = 20  # most likely tokens reported at each position
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1000  # characters
MAX_STOP_IDS = 1024
MAX_TOKENS = 2**31 - 1
MAX_BIASES = 1024
MAX_ALLOWED = 2**18
MAX_BAD_WORDS = 256
# Of vLLM's parameters those that aren't here, and why.
UNDONE = {
    "logits_processors": "the engine runs no code of its callers; logit_bias, bad_words, allowed_token_ids and "
    "structured_outputs are there",
    "best_of": "it would draw samples that nobody sees; give n",
    "use_beam_search": "tokens are drawn one by one",
    "length_penalty": "it is of beams, and tokens are drawn one by one",
    "early_stopping": "it is of beams, and tokens are drawn one by one",
    "flat_logprobs": "log-probabilities come in one form",
    "detokenize": "answers are texts; their token_ids are there too",
    "spaces_between_special_tokens": "special tokens come as they are",
    "output_kind": "generate gives the whole, stream the pieces",
    "extra_args": "there is nobody to read them",
    "thinking_token_budget": "nobody counts the tokens of a thought",
    "repetition_detection": "give a penalty, or max_tokens",
    "logprob_token_ids": "logprobs are of the likeliest tokens; allowed_token_ids choose among given ones",
    "prompt_logprob_token_ids": "prompt_logprobs are of the prompt's own tokens and of the likeliest",
    "prompt_logprob_start": "prompt_logprobs are of all tokens of a prompt",
    "stream_interval": "pieces come as they are made",
    "trace_decode_token_ids": "give the tokens as part of the prompt, and prompt_logprobs",
    "routed_experts_prompt_start": "nobody reports experts",
    "skip_clone": "parameters never change",
    "output_text_buffer_length": "it is vLLM's own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to draw the tokens of a request and when to stop.

    The logits pass: penalties, temperature, min_p, top_k, top_p. Temperature 0 is greedy; ties go to the lowest id.
    A value out of its range raises RequestError, which names the parameter, the value and the range.

    What isn't given may be the model's to say (`with_defaults`): `named` are those that were given. To
    `dataclasses.replace` all of them are.
    """

    named: frozenset[str] = field(init=False, repr=False, compare=False)
    n: int = 1  # samples of the prompt
    max_tokens: int | None = 16  # of each sample; None: up to the end of the context
    min_tokens: int = 0  # before that many, neither an end token nor a stop string ends the text
    temperature: float = 1.0
    top_p: float = 1.0  # the smallest set of likeliest tokens whose probabilities add up to it; 1 = off
    top_k: int = 0  # that many likeliest tokens; 0 or -1 = off
    min_p: float = 0.0  # tokens at least that likely, relative to the likeliest; 0 = off
    seed: int | None = None  # None: a new one for each request
    stop: str | Sequence[str] | None = None  # becomes a tuple
    stop_token_ids: Sequence[int] | None = None  # becomes a tuple
    ignore_eos: bool = False
    logprobs: int | None = None  # report the sampled token and that many of the likeliest
    prompt_logprobs: int | None = None  # the same of the prompt's tokens, which are all computed then
    skip_reading_prefix_cache: bool | None = None  # compute all of the prompt, whatever is in the cache
    repetition_penalty: float = 1.0  # of tokens in prompt and output: divides positive logits, multiplies negative ones
    presence_penalty: float = 0.0  # subtracted from the logit of each token in the output
    frequency_penalty: float = 0.0  # the same, times how often it is there
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    # What the answer must look like; becomes a Grammar.
    structured_outputs: Grammar | StructuredOutputsParams | Mapping[str, Any] | None = None
    guided_decoding: Grammar | StructuredOutputsParams | Mapping[str, Any] | None = None  # vLLM's older name for it
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)  # added to logits by id; -100 to 100
    allowed_token_ids: Sequence[int] | None = None  # no others are drawn; becomes a tuple
    bad_words: Sequence[str] | None = None  # their tokens, one behind the other, aren't drawn; becomes a tuple
    truncate_prompt_tokens: int | None = (
        None  # that many of the prompt's last tokens are read; -1: what the context holds
    )

    def __new__(cls, **given: Any) -> Self:
        for name in given:
            if name in UNDONE:
                raise RequestError(f"{name} isn't done here: {UNDONE[name]}.")
        made = object.__new__(cls)
        named = {"structured_outputs" if name == "guided_decoding" else name for name in given}
        object.__setattr__(made, "named", frozenset(named & cls.__dataclass_fields__.keys()))
        return made

    def __post_init__(self) -> None:
        _whole("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _whole("min_tokens", self.min_tokens, 0, MAX_TOKENS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _bad("min_tokens", self.min_tokens, f"at most max_tokens, which is {self.max_tokens}")
        _number("temperature", self.temperature, 0, 100)
        _number("top_p", self.top_p, 0, 1, above=True)
        _whole("top_k", self.top_k, -1, MAX_TOKENS)
        _number("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 0, MAX_LOGPROBS)
        _number("repetition_penalty", self.repetition_penalty, 0, 100, above=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if self.skip_reading_prefix_cache not in (None, True, False):
            raise _bad("skip_reading_prefix_cache", self.skip_reading_prefix_cache, "True or False")
        object.__setattr__(self, "stop", _strings("stop", self.stop, MAX_STOP_STRINGS))
        object.__setattr__(self, "stop_token_ids", _ids("stop_token_ids", self.stop_token_ids, MAX_STOP_IDS))
        self._check_masks()

    def _check_masks(self) -> None:
        if self.guided_decoding is not None:
            if self.structured_outputs is not None:
                raise _bad("guided_decoding", "…", "structured_outputs alone, which is its newer name")
            object.__setattr__(self, "structured_outputs", self.guided_decoding)
            object.__setattr__(self, "guided_decoding", None)
        if self.structured_outputs is not None:
            object.__setattr__(self, "structured_outputs", as_grammar(self.structured_outputs))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        if self.allowed_token_ids is not None:
            ids = _ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED)
            if not ids:
                raise _bad("allowed_token_ids", ids, "at least one id, or leave it out")
            object.__setattr__(self, "allowed_token_ids", ids)
        words = _strings("bad_words", [] if self.bad_words is None else self.bad_words, MAX_BAD_WORDS)
        object.__setattr__(self, "bad_words", words or None)
        if self.truncate_prompt_tokens is not None and self.truncate_prompt_tokens != -1:
            _whole("truncate_prompt_tokens", self.truncate_prompt_tokens, 1, MAX_TOKENS)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as the tuple that it has become."""
        return tuple(self.stop or ())

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`stop_token_ids` as the tuple that it has become."""
        return tuple(self.stop_token_ids or ())

    @property
    def grammar(self) -> Grammar | None:
        """`structured_outputs` as the Grammar that it has become."""
        found = self.structured_outputs
        return found if isinstance(found, Grammar) else None

    @property
    def constrained(self) -> bool:
        """Not every token may come next."""
        return bool(self.structured_outputs is not None or self.allowed_token_ids is not None or self.bad_words)

    @property
    def greedy(self) -> bool:
        """The likeliest token, whatever the seed."""
        return self.temperature == 0

    @property
    def penalises_seen(self) -> bool:
        """Tokens of prompt and output are penalised."""
        return self.repetition_penalty != 1

    @property
    def penalises_output(self) -> bool:
        """Tokens of the output are, by how often they are there or at all."""
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def penalises(self) -> bool:
        """What is drawn depends on the tokens before."""
        return self.penalises_seen or self.penalises_output

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all parameters, for faces that take them from elsewhere."""
        return tuple(field.name for field in fields(cls) if field.init and field.name != "guided_decoding")

    @classmethod
    def of(cls, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingParams:
        """What is given by name, `defaults` for the rest. Of min_tokens and max_tokens a default gives way to the one
        that is given. Raises RequestError."""
        values = {**defaults, **given}
        least, most = values.get("min_tokens", 0), values.get("max_tokens", cls().max_tokens)
        if isinstance(least, int) and isinstance(most, int) and least > most:
            if "min_tokens" not in given:
                values["min_tokens"] = most
            elif "max_tokens" not in given:
                values["max_tokens"] = least
        return cls(**values)

    def with_defaults(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """These, with `defaults` where none was named."""
        values = {name: getattr(self, name) for name in self.names()}
        return SamplingParams.of({name: values[name] for name in self.named}, values | dict(defaults))


_brief = Repr()  # of lists with a hundred thousand entries the first few
_brief.maxlist = _brief.maxtuple = _brief.maxdict = 8
_brief.maxstring = _brief.maxother = 90
_brief.maxlong = 130


def _bad(name: str, value: object, wanted: str) -> RequestError:
    huge = isinstance(value, int) and abs(value) >> 400  # Python itself refuses to write thousands of digits
    shown = "a huge number" if huge else _brief.repr(value)
    return RequestError(f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'} can't be used: give {wanted}.")


def _whole(name: str, value: Any, low: int, high: int) -> None:
    # bool is an int to Python, but `n=True` is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(name, value, f"a whole number from {low} to {high}")


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    wanted = f"a number {'above' if above else 'from'} {low} {'and at most' if above else 'to'} {high}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _bad(name, value, wanted)
    # Whole numbers may be too large for isfinite; what isn't a number is within no bounds.
    if not low <= value <= high or (above and value == low):
        raise _bad(name, value, wanted)


def _strings(name: str, given: Any, most: int) -> tuple[str, ...]:
    if given is None:
        return ()
    strings = (given,) if isinstance(given, str) else given
    wanted = f"at most {most} strings of 1 to {MAX_STOP_LENGTH} characters"
    if not isinstance(strings, list | tuple) or len(strings) > most:
        raise _bad(name, given, wanted)
    if not all(isinstance(one, str) and 1 <= len(one) <= MAX_STOP_LENGTH for one in strings):
        raise _bad(name, given, wanted)
    return tuple(dict.fromkeys(strings))


def _ids(name: str, ids: Any, most: int) -> tuple[int, ...]:
    if ids is None:
        return ()
    if not isinstance(ids, list | tuple | set | frozenset) or len(ids) > most:
        raise _bad(name, ids, f"a list of at most {most} token ids")
    wrong = [one for one in ids if type(one) is not int or not 0 <= one <= MAX_TOKENS]
    for one in wrong[:1]:
        _whole(name, one, 0, MAX_TOKENS)
    return tuple(dict.fromkeys(ids))


def _biases(given: Any) -> dict[int, float] | None:
    """By id, ascending. JSON has strings for keys."""
    if not given and given in (None, {}):
        return None
    wanted = f"at most {MAX_BIASES} numbers from -100 to 100 by token ids"
    if not isinstance(given, Mapping) or len(given) > MAX_BIASES:
        raise _bad("logit_bias", given, wanted)
    found: dict[int, float] = {}
    for token_id, bias in given.items():
        if isinstance(token_id, str) and token_id.isascii() and token_id.isdigit() and len(token_id) <= 10:
            token_id = int(token_id)
        _whole("logit_bias", token_id, 0, MAX_TOKENS)
        _number("logit_bias", bias, -100, 100)
        found[token_id] = float(bias)
    return dict(sorted(found.items()))
