"""The native extension: kernels, the decoder core, and the two ends of an offload over rings.

tests/kernels/test_stubs.py compares this with the module that was built. Arrays are C-contiguous and on the processor.
Functions that take a `pool` use its threads, or the calling one alone. Wrong shapes and types are a ValueError, or a
TypeError where an array's type is fixed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

from cutset.link._ring import Poller, Receiver, Sender

_Floats = NDArray[np.float32]
_Matrix = _Floats | NDArray[np.float16] | NDArray[np.uint16]
_Residues = NDArray[np.uint32]
_Integers = NDArray[np.int16] | NDArray[np.int8]
_Bytes = NDArray[np.uint8]
_Ids = NDArray[np.int32]
_Site = Literal["qkv", "o", "gate_up", "down", "lm_head"]

most_residue_depth: int

def isa() -> str: ...
def available_isas() -> list[str]: ...
def select_isa(name: str) -> bool:
    """False where this machine or build lacks it."""

class Pool:
    """A fixed number of threads, the caller among them."""

    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

class LinearF32:
    """y = x . W^T in float32; weight (outputs, depth) is copied into a packed form of as many bits: float32, float16,
    or bfloat16 as uint16. What 16 bits give is, bit for bit, what the same numbers in float32 give; but `amx` sums up
    products with bfloat16 in another order, see reference_tiles.py."""

    @overload
    def __init__(self, weight: _Matrix, pool: Pool | None = None) -> None: ...
    @overload
    def __init__(self, weights: Sequence[_Matrix], pool: Pool | None = None) -> None:
        """Matrices of the same depth and type, stacked."""

    def __call__(self, x: _Floats, out: _Floats, pool: Pool | None = None) -> None:
        """x (rows, depth), out (rows, outputs)"""

    @property
    def outputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class LinearI8:
    """y = x . W^T with 8-bit weights and activations of 8 to 12 bits."""

    @overload
    def __init__(self, weight: NDArray[np.int8], scales: _Floats, pool: Pool | None = None) -> None: ...
    @overload
    def __init__(
        self, weights: Sequence[NDArray[np.int8]], scales: Sequence[_Floats], pool: Pool | None = None
    ) -> None: ...
    @staticmethod
    def packed(panels: NDArray[np.int8], scales: _Floats, depth: int, pool: Pool | None = None) -> LinearI8:
        """Weights that are packed already, as reference_linear.pack_weight does it; they are not copied."""

    def __call__(self, x: _Floats, out: _Floats, bits: int = 8, pool: Pool | None = None) -> None:
        """x (rows, depth), out (rows, outputs)"""

    def integers(
        self, q: _Integers, bits: int | None = None, pool: Pool | None = None, out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Sums (rows, outputs) of q (rows, depth). Bits are 8 or 12 unless given."""

    def residues(self, x: _Residues, pool: Pool | None = None, out: _Residues | None = None) -> _Residues:
        """x . W^T mod 2^31 - 1, (rows, outputs), of residues x (rows, depth). ValueError if some x isn't one."""

    @property
    def outputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    def move_in(self, pool: Pool | None = None) -> int:
        """Copies weights that lie elsewhere to huge pages of its own; the bytes, 0 if they are there already."""

    def warm(self, offset: int, bytes: int) -> int:
        """Reads weights into the cache from a byte on; where it ended."""

    @property
    def most_bits(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

_Factors = tuple[NDArray[np.uint16] | _Floats, NDArray[np.int8] | NDArray[np.uint8] | None]

class LinearGrouped:
    """y = x . W^T with weights of few bits and a scale for each group of columns."""

    def __init__(
        self,
        codes: Sequence[NDArray[np.uint8]],
        bits: int,
        span: int,
        scales: Sequence[_Factors],
        minima: Sequence[_Factors] | None = None,
        zeros: Sequence[NDArray[np.uint8]] | None = None,
        zero: int = 0,
        levels: NDArray[np.int8] | None = None,
        order: NDArray[np.int32] | None = None,
        pool: Pool | None = None,
    ) -> None:
        """Matrices of the same depth, stacked; cutset.models.run.grouped_linears makes these arguments.

        codes: (outputs, depth) each, below 2^bits; bits: 4, 5, 6 or 8. span: columns of a group, a multiple of 16 up to
        256; the last group may be shorter. scales, minima: values (outputs, blocks), float32 or the bits of float16,
        and steps (outputs, groups) or None. zeros: (outputs, groups), or else one `zero`
        for all. levels: (16,) that codes of 4 bits stand for. order: (depth,) which columns of x the codes multiply.
        """

    def __call__(self, x: _Floats, out: _Floats, bits: int = 12, pool: Pool | None = None) -> None:
        """x (rows, depth), out (rows, outputs); bits of the activations, 8 to 12"""

    def weights(self, outputs: NDArray[np.int32]) -> _Floats:
        """The weights of some outputs, (n, depth)."""

    @property
    def bits(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def quantize_groups(
    weight: _Floats, bits: int, group: int, minima: bool, pool: Pool | None = None
) -> tuple[NDArray[np.uint8], _Floats, _Floats | None]:
    """(codes, scales, minima or None) of weight (outputs, depth): (outputs, depth) and twice (outputs, groups)."""

def quantize_rows(x: _Floats, bits: int = 8, pool: Pool | None = None) -> tuple[NDArray[np.int16], _Floats]:
    """(q, scales) of x (rows, depth): (rows, depth) and (rows,)"""

def quantize_weight(weight: _Floats, pool: Pool | None = None) -> tuple[NDArray[np.int8], _Floats]:
    """(q, scales) of weight (outputs, depth): (outputs, depth) and (outputs,)"""

def read_seconds(data: _Bytes, pool: Pool | None = None) -> float:
    """Seconds for reading data (bytes,) once: nothing that streams weights is faster."""

def read_bandwidth(pool: Pool | None, bytes: int, times: int = 3) -> float:
    """_Bytes a second at which memory of that size is read, the best of `times`."""

def scan(table: _Floats, ids: _Ids, out: _Floats) -> None: ...
def embedding(table: _Floats, ids: _Ids, out: _Floats) -> None: ...
def rms_norm(x: _Floats, gain: _Floats, eps: float, out: _Floats) -> None: ...
def add_rms_norm(x: _Floats, delta: _Floats, gain: _Floats, eps: float, out: _Floats) -> None: ...
def add_bias(x: _Floats, bias: _Floats) -> None: ...
def scaled_add(out: _Floats, weight: float, x: _Floats) -> None: ...
def apply_rope(
    x: _Floats, cos: _Floats, sin: _Floats, heads: int, head_dim: int = 0, interleaved: bool = False
) -> None: ...
def mix_heads(x: _Floats, head_dim: int) -> None: ...
def silu_mul(x: _Floats, out: _Floats) -> None: ...
def gelu_mul(x: _Floats, out: _Floats) -> None: ...
def gelu_erf_mul(x: _Floats, out: _Floats) -> None: ...
def relu_mul(x: _Floats, out: _Floats, *, squared: bool) -> None: ...
def clamped_mul(x: _Floats, limit: float, alpha: float, out: _Floats) -> None: ...
def scale(x: _Floats, factor: float) -> None: ...
def short_conv(x: _Floats, weight: _Floats, bias: _Floats | None, out: _Floats) -> None: ...
def thin_product(x: _Floats, weight: _Floats, out: _Floats) -> None: ...
def thin_add(x: _Floats, weight: _Floats, first: int, scale: float, y: _Floats) -> None: ...
def delta_rule(state: _Floats, qkv: _Floats, *, kept: _Floats, beta: _Floats, out: _Floats) -> None: ...
def multiply(a: _Floats, b: _Floats, out: _Floats) -> None: ...
def sigmoid_mul(x: _Floats, gate: _Floats) -> None: ...
def softcap(x: _Floats, cap: float) -> None: ...
def moe_route(logits: _Floats, *, normalise: bool, ids: _Ids, weights: _Floats) -> None: ...
def exp(x: _Floats, out: _Floats) -> None: ...
def cache_floats(kv_heads: int, head_dim: int, block_size: int, int8: bool = False) -> tuple[int, int]:
    """_Floats of a block of keys, and of values."""

def append(
    qkv: _Floats,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    keys: _Floats,
    values: _Floats,
    row_starts: _Ids,
    context_lens: _Ids,
    block_tables: _Ids,
    int8: bool = False,
) -> None: ...
def attention(
    qkv: _Floats,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    keys: _Floats,
    values: _Floats,
    row_starts: _Ids,
    context_lens: _Ids,
    block_tables: _Ids,
    scale: float,
    out: _Floats,
    window: int = 0,
    key_mask: NDArray[np.bool_] | None = None,
    wanted: _Ids | None = None,
    pool: Pool | None = None,
    softcap: float = 0.0,
    sinks: _Floats | None = None,
    int8: bool = False,
) -> None: ...

# The prime field: cutset.kernels.reference_field documents these.

def mask(q: NDArray[np.int16], r: _Residues, out: _Residues | None = None, pool: Pool | None = None) -> _Residues: ...
def dots(x: NDArray[np.integer], v: _Residues, pool: Pool | None = None) -> _Residues: ...
def project(weight: NDArray[np.int8], s: _Residues, pool: Pool | None = None) -> _Residues: ...
def settle(
    reply: NDArray[np.integer],
    row_scales: _Floats,
    output_scales: _Floats,
    out: _Floats,
    *,
    pad: _Residues | None = None,
    bounds: _Ids | None = None,
    top: int = 0,
    secrets: _Residues | None = None,
    expected: _Residues | None = None,
    pool: Pool | None = None,
) -> tuple[int, int, int]: ...

class Decoder:
    """A decoder without its products."""

    def __init__(
        self,
        *,
        vocab: int,
        hidden: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        intermediate: int,
        norm_eps: float,
        parameters: dict[tuple[str, int], _Matrix | LinearGrouped],
        pool: Pool,
        windows: Sequence[int] = [],
        sparse: Sequence[bool] = [],
        experts: int = 0,
        top_k: int = 0,
        normalise: bool = False,
        expert_intermediate: int = 0,
        shared: int = 0,
        shared_intermediate: int = 0,
        activation: str = "silu",
        activation_limit: float = 0.0,
        activation_alpha: float = 0.0,
        rotary_dim: int = 0,
        rotary_interleaved: bool = False,
        rotary_tables: int = 1,
        rotary_table: Sequence[int] = [],
        attention_scale: float = 0.0,
        attention_softcap: float = 0.0,
        embedding_scale: float = 1.0,
        residual_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_softcap: float = 0.0,
        whole_norms: bool = False,
        mixer: str = "attention",
        recurrent: Sequence[bool] = [],
        taps: int = 1,
        key_heads: int = 0,
        value_heads: int = 0,
        key_dim: int = 0,
        value_dim: int = 0,
        gated_attention: bool = False,
        layer_kv_heads: Sequence[int] = [],
        layer_head_dims: Sequence[int] = [],
        intermediates: Sequence[int] = [],
        kv_layers: Sequence[int] = [],
        equal_kv: Sequence[bool] = [],
        rotary_dims: Sequence[int] = [],
        layer_vocab: int = 0,
        layer_width: int = 0,
        layer_embedding_scale: float = 1.0,
        layer_product_scale: float = 1.0,
        layer_input_scale: float = 1.0,
        router_scale: float = 1.0,
        first: int = 0,
        stop: int = 0,
    ) -> None:
        """parameters: by name and layer, -1 for those of no layer; they aren't copied. Matrices may have any type of
        LinearF32, and the embedding may be grouped.

        A stage runs the layers first .. stop alone (0: all from `first` on).
        """

    @property
    def data_oblivious(self) -> bool:
        """No address that is read depends on which tokens are looked up; to be set before there are steps"""

    @data_oblivious.setter
    def data_oblivious(self, arg: bool, /) -> None: ...

class KvCache:
    """Keys and values of all layers in blocks of tokens."""

    def __init__(self, decoder: Decoder, blocks: int, block_size: int, states: int = 0, int8: bool = False) -> None: ...
    def block(self, number: int) -> NDArray[np.uint8]:
        """The bytes of a block's keys and values in all layers, where they lie"""

    @property
    def blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Linears:
    """Who computes the products of a decoder."""

class LocalLinears(Linears):
    """The products of a decoder, computed here."""

    def __init__(self, decoder: Decoder, pool: Pool) -> None: ...
    @overload
    def put(self, site: str, layer: int, expert: int, linear: LinearF32) -> None: ...
    @overload
    def put(self, site: str, layer: int, expert: int, linear: LinearI8, bits: int = 8) -> None: ...
    @overload
    def put(
        self, site: str, layer: int, expert: int, linears: tuple[LinearGrouped | LinearF32, ...], bits: int = 12
    ) -> None:
        """Those that give the site's outputs, one after the other."""

    @property
    def nbytes(self) -> int:
        """Of all packed weights."""

class Adapter:
    """Low-rank additions to the products of a decoder."""

    def __init__(self, decoder: Decoder) -> None: ...
    def put(
        self,
        site: str,
        layer: int,
        expert: int,
        down: _Floats,
        up: _Floats,
        first: int,
        scale: float,
        scales: _Floats | None = None,
    ) -> None: ...

class Step:
    """One step of a decoder, from site to site."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        pool: Pool,
        trace: Callable[[str, int, _Floats], object] | None = None,
    ) -> None: ...
    def begin(
        self,
        token_ids: _Ids,
        *,
        cos: _Floats,
        sin: _Floats,
        row_starts: _Ids,
        context_lens: _Ids,
        block_tables: _Ids,
        logit_rows: _Ids,
        key_mask: NDArray[np.bool_] | None = None,
        adapters: list[Adapter | None] | None = None,
        state_slots: _Ids | None = None,
        state_sources: _Ids | None = None,
        state_saves: _Ids | None = None,
        query_scales: _Floats | None = None,
        hidden: _Floats | None = None,
        head: bool = True,
    ) -> None: ...
    def prepare(
        self,
        token_ids: _Ids,
        *,
        cos: _Floats,
        sin: _Floats,
        row_starts: _Ids,
        context_lens: _Ids,
        block_tables: _Ids,
        logit_rows: _Ids,
        key_mask: NDArray[np.bool_] | None = None,
        adapters: list[Adapter | None] | None = None,
        state_slots: _Ids | None = None,
        state_sources: _Ids | None = None,
        state_saves: _Ids | None = None,
        query_scales: _Floats | None = None,
        head: bool = True,
    ) -> None:
        """As `begin`, up to the hidden states, with which `start` begins."""

    def start(self, hidden: _Floats | None = None) -> None: ...
    def resume(self, y: _Floats | None = None) -> None:
        """Goes on with the product y (rows, outputs), or with what was written to `output`."""

    def run(self, linears: Linears) -> None: ...
    @property
    def waiting(self) -> tuple[_Site, int, int, _Floats] | None:
        """(site, layer, expert, rows), or None when the step is done; the rows hold until `resume`."""

    @property
    def hidden_bytes(self) -> int:
        """of the hidden states that a prepared step takes or gives"""

    @property
    def output(self) -> _Floats:
        """Where the product that the step waits for may be written, (rows, outputs)."""

    @property
    def logits(self) -> _Floats:
        """(wanted, vocab), of the last stage"""

    @property
    def hidden(self) -> _Floats:
        """(rows, hidden), the residual stream, of the other stages; without a head (wanted, hidden), normed"""

# The delta codec: cutset.kernels.reference_delta documents these.

def delta_encode(
    held: NDArray[Any] | None, fresh: NDArray[Any], mask: _Bytes, values: _Bytes, threshold: float = 0.0
) -> int: ...
def delta_compare(
    base: NDArray[Any], fresh: NDArray[Any], mask: _Bytes, values: _Bytes, threshold: float = 0.0
) -> int: ...
def mask_nest(mask: _Bytes, out: _Bytes) -> int: ...
def mask_unnest(nested: _Bytes, mask: _Bytes) -> bool: ...
def delta_gather(held: NDArray[Any], mask: _Bytes, values: _Bytes) -> int: ...
def delta_decode(held: NDArray[Any], mask: _Bytes, values: _Bytes) -> int: ...

# The frames of a product, for tests: native code writes and reads these two by itself.

def front_of_multiply(call: int, matrix: int, masked: bool, rows: int, depth: int) -> bytes: ...
def front_of_answer(call: int, seconds: float, shared: int, masked: bool, rows: int, outputs: int) -> bytes: ...
def read_frame(frame: bytes) -> tuple[str | int | float | bool, ...] | None: ...

# The client of an offload over rings: native/offload/client.h documents it.

class RemoteMatrix:
    """One matrix as the client of an offload knows it. Its arrays are kept, not copied."""

    def __init__(
        self,
        site: str,
        layer: int,
        expert: int,
        *,
        number: int,
        bits: int,
        depth: int,
        scales: _Floats,
        bounds: _Ids | None,
        secrets: _Residues | None,
        projected: _Residues | None,
    ) -> None: ...

class RunRequest:
    """A step to be answered, and what its calls begin with: the number of the session's last call, the rows that a call
    may have, the first row of the step's product that isn't answered yet, seconds to wait for an answer."""

    def __init__(
        self, step: Step, *, calls: int, most_rows: int, row: int, patience: float, count_cpu: bool
    ) -> None: ...

class SentCall:
    """A call that was sent and not finished."""

    @property
    def q(self) -> NDArray[np.int16] | None:
        """Its integers (rows, depth), if they were kept."""

    @property
    def scales(self) -> _Floats:
        """(rows,)"""

    @property
    def expected(self) -> _Residues | None:
        """What its check must give, (rows, checks)."""

    @property
    def pad(self) -> list[tuple[int, int, int]]:
        """The rows that masked it: (name, first, rows) of each piece."""

    @property
    def record(self) -> tuple[int, int, int, int, int]:
        """What came from the ring and wasn't the usual answer."""

    @property
    def reply(self) -> NDArray[np.uint32] | NDArray[np.int32] | None:
        """A copy of an answer that is wrong."""

    @property
    def fault(self) -> tuple[int, int, int]:
        """What is wrong with it, and in which row and column, as `settle` says it."""

class RunOutcome:
    """How far a run got."""

    @property
    def stop(self) -> int: ...
    @property
    def calls(self) -> int:
        """The number of the last call that was sent."""

    @property
    def wall(self) -> list[float]:
        """Seconds by part, in the order of offload.client.call_times.PARTS; `cpu` likewise."""

    @property
    def cpu(self) -> list[float]: ...
    @property
    def answered(self) -> int:
        """Calls that came to a good end, with their rows and bytes below."""

    @property
    def answered_rows(self) -> int: ...
    @property
    def bytes_up(self) -> int: ...
    @property
    def bytes_down(self) -> int: ...
    @property
    def spent(self) -> dict[int, int]:
        """Rows of pads that were used, by matrix."""

    @property
    def matrix(self) -> int:
        """Of the product that the step waits for."""

    @property
    def row(self) -> int:
        """The first row of the call that was stopped at, and how many it has: `rows`."""

    @property
    def rows(self) -> int: ...
    @property
    def sent(self) -> SentCall | None: ...

class RemoteLinears:
    """The products of a decoder, multiplied behind a ring."""

    def __init__(
        self,
        decoder: Decoder,
        pool: Pool,
        matrices: Sequence[RemoteMatrix],
        *,
        masked: bool,
        pad_rows: bool,
        awake: tuple[float, float],
    ) -> None:
        """awake: seconds that waits stay awake, alone and where others share the accelerator."""

    def attach(self, sender: Sender, receiver: Receiver) -> None:
        """Talks on these ends of a link from now on."""

    def lend(self, matrix: int, name: int, r: _Residues, product: _Residues) -> list[int]:
        """Rows of pads of a matrix, each to be used once here. The names of those that were used up by now."""

    def take(self, matrix: int, rows: int) -> list[tuple[int, int, int]]:
        """Takes lent rows away: (name, first, rows) of each piece."""

    def left(self, matrix: int) -> int:
        """Lent rows of a matrix that weren't used."""

    def run(self, request: RunRequest) -> RunOutcome:
        """Answers products of the step until it is done, or something is out of the ordinary."""

    @property
    def calls(self) -> int:
        """The number of the last call that was sent, for where `run` raised."""

# The accelerator over rings: native/offload/server.h documents it.

class Batcher:
    """Which waiting calls are multiplied together, and when: offload.accelerator.batcher documents it."""

    def __init__(
        self, *, matrices: int, window: float, max_rows: int, max_waiting: int, costs: Sequence[int] = []
    ) -> None: ...
    def __len__(self) -> int: ...
    @property
    def clients(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    def join(self, client: int) -> None: ...
    def leave(self, client: int) -> None: ...
    def add(self, client: int, number: int, matrix: int, x: NDArray[Any], arrived: float) -> bool: ...
    def answered(self, client: int, now: float) -> None: ...
    def has_room(self, client: int) -> bool: ...
    def known(self, client: int, number: int, now: float) -> bool: ...
    def drop(self, client: int, number: int) -> None: ...
    def hold(self, client: int, held: bool) -> None: ...
    def busy(self, client: int, waits: bool) -> None: ...
    def charge(self, client: int, seconds: float) -> None: ...
    def may(self, client: int, now: float) -> bool: ...
    def cost(self, matrix: int) -> int: ...
    @property
    def speed(self) -> float: ...
    @speed.setter
    def speed(self, arg: float, /) -> None: ...
    def wait(self, now: float) -> float | None: ...
    def take(self, now: float) -> list[tuple[int, int, int]]:
        """(client, number, matrix) of the calls of the next product"""

    def take_pieces(self, now: float) -> list[tuple[int, int, int, int]]:
        """The same with the rows that are taken: (client, number, first, count)"""

class TurnEnd:
    """What ended a turn of a RingServer, and for which client."""

    @property
    def event(self) -> int: ...
    @property
    def client(self) -> int: ...
    @property
    def call(self) -> int: ...
    @property
    def record(self) -> tuple[int, int, int, int, int]:
        """That came and isn't a plain call."""

    @property
    def reason(self) -> str:
        """Why the call isn't answered."""

    @property
    def seconds(self) -> float:
        """That its product took, and who shared it."""

    @property
    def shared(self) -> int: ...
    @property
    def product(self) -> NDArray[np.uint32] | NDArray[np.int32] | None:
        """A copy of the product (rows, outputs) that there was no room for; to be made before the next turn."""

class RingServer:
    """The loop of an accelerator over rings of shared memory. Clients are the poller's tokens."""

    def __init__(
        self,
        linears: list[LinearI8],
        pool: Pool,
        batcher: Batcher,
        poller: Poller,
        *,
        max_rows: int,
        warm_bytes: int,
        warm_step: int,
        cores: int,
    ) -> None: ...
    def greet(self, client: int, sender: Sender, receiver: Receiver) -> None:
        """Its calls are answered here from now on."""

    def forget(self, client: int) -> None: ...
    def queue(self, client: int, number: int, matrix: int, x: NDArray[Any]) -> bool:
        """A call that the slow twin read. False where there is no room for it."""

    def turn(self, seconds: float, idle: float) -> TurnEnd:
        """Serves for `seconds`, or until something is for the twin, or nothing was to be done for `idle` seconds."""

    def counted(self) -> tuple[dict[str, int], dict[int, dict[str, float]]]:
        """What was counted since the last time: of all, and by client."""

_Window = tuple[int, int, int, int, int, int, int, int]

class SparseMap:
    """A feature map (rows, columns, channels) of float32 with a border of zeros that windows may reach into; zeros at
    first. Incremental inference replaces positions of it; cutset.kernels.reference_sparse says what each layer
    computes."""

    def __init__(self, rows: int, columns: int, channels: int, border: int = 0) -> None: ...
    @property
    def values(self) -> _Floats:
        """(rows, columns, channels), the map's own memory."""

    @property
    def border(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def take(
        self,
        fresh: _Floats | _Bytes,
        changed: _Bytes,
        threshold: float = 0.0,
        among: _Bytes | None = None,
        pool: Pool | None = None,
    ) -> int:
        """Replaces the positions at which fresh (channels, rows, columns) differs by `threshold` or more, with 0 in a
        bit, and writes 1 to changed (rows, columns) there. How many. None are looked at where `among` is 0."""

class SparseTarget:
    """Where a layer writes: positions (n,) int64 of `out`, rising, row * columns + column each. What differs from what
    is held by `threshold` or more in a channel, with 0 in a bit, is replaced, and 1 written to changed there."""

    def __init__(
        self,
        out: SparseMap,
        positions: NDArray[np.int64],
        changed: _Bytes,
        threshold: float = 0.0,
        first_channel: int = 0,
        activation: str = "none",
        parameter: float = 0.0,
    ) -> None: ...

class SparseConv:
    """A convolution at some positions; weight (outputs, rows, columns, channels / groups) is packed."""

    def __init__(self, weight: _Floats, bias: _Floats | None, groups: int, window: _Window) -> None:
        """window: rows, columns, their strides, padding above and to the left, their dilations."""

    def update(self, x: SparseMap, to: SparseTarget, pool: Pool | None = None) -> int:
        """How many positions were replaced, as of all that follow."""

    @property
    def outputs(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def sparse_pool(
    x: SparseMap, window: _Window, mean: bool, divisor: int, to: SparseTarget, pool: Pool | None = None
) -> int:
    """The largest or the mean of what lies inside of the map; with a divisor above 0 the mean's is that."""

def sparse_affine(x: SparseMap, scale: _Floats, shift: _Floats, to: SparseTarget, pool: Pool | None = None) -> int:
    """x * scale + shift, both (channels,)"""

def sparse_copy(x: SparseMap, first: int, channels: int, to: SparseTarget, pool: Pool | None = None) -> int:
    """Some channels of x as they are"""

def sparse_combine(kind: str, a: SparseMap, b: SparseMap, to: SparseTarget, pool: Pool | None = None) -> int:
    """kind: add, sub, mul, div, max or min"""

def sparse_resize(
    x: SparseMap,
    row_places: NDArray[np.int64],
    row_shares: _Floats,
    column_places: NDArray[np.int64],
    column_shares: _Floats,
    to: SparseTarget,
    pool: Pool | None = None,
) -> int:
    """Places (2, rows) and (2, columns) that are blended; shares (rows,) and (columns,) of the second ones."""

def sparse_reached(masks: Sequence[_Bytes], window: _Window, rows: int, columns: int) -> NDArray[np.int64]:
    """The positions of an output (rows, columns), rising, whose windows meet a mark of 1 in one of the masks of what is
    read, all of one shape."""

def sparse_spread(x: SparseMap, down: int, across: int, apart: bool, to: SparseTarget, pool: Pool | None = None) -> int:
    """Each position becomes down x across places, which have a part of its channels each: side by side, or (apart) one
    channel's of all places."""

# Stages over rings: native/bindings/hop.cpp documents these.

class HopEnd:
    """What ended a wait of a StepHop: nothing where all is false."""

    @property
    def ran(self) -> bool: ...
    @property
    def started(self) -> bool:
        """it ran, or failed"""

    @property
    def other(self) -> bool:
        """a record came"""

    @property
    def client(self) -> int: ...
    @property
    def record(self) -> tuple[int, int, int, int, int]:
        """that came and isn't what was expected"""

    @property
    def sent(self) -> float:
        """by the sender's clock"""

    @property
    def came(self) -> float: ...
    @property
    def ended(self) -> float: ...
    @property
    def sent_on(self) -> float:
        """when what it made was put into a ring; 0 where it wasn't"""

    @property
    def reason(self) -> str:
        """why it failed"""

def run_step(
    step: Step,
    linears: Linears,
    hidden: _Bytes | None = None,
    *,
    to: CapsuleType | None = None,
    front: bytes | None = None,
    clock: int = 0,
) -> HopEnd:
    """Starts a prepared step with the bytes of its hidden states, or of tokens, and runs it. What it makes goes into
    the ring whose sender's end `to` is, if that can be done at once."""

def frame_of(step: Step, front: bytes, clock: int) -> bytes:
    """The bytes of a frame with what a step made behind `front`, sent now."""

def send_hidden(step: Step, end: CapsuleType, front: bytes, clock: int) -> float:
    """Puts what a step made into a ring, behind `front`: when it left, or 0 where there is no room, or another thread
    sends. `end` is the sender's."""

class StepHop:
    """Runs prepared steps with the hidden states that a ring brings. Clients are the poller's tokens."""

    def __init__(self, poller: Poller) -> None: ...
    @property
    def since(self) -> float:
        """when the step began that runs now, by the monotonic clock; 0 without one"""

    def run(
        self,
        step: Step,
        linears: Linears,
        *,
        client: int,
        receiver: Receiver,
        front: bytes,
        clock: int,
        sleep: float,
        awake: float,
        late: float = 0.0,
        to: CapsuleType | None = None,
    ) -> HopEnd:
        """Waits asleep, then awake, and then asleep again for the frame that begins so, and runs the step with it. What
        it makes goes into the ring whose sender's end `to` is, behind the same front, if that can be done at once."""
