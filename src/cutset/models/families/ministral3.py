"""Ministral 3: Mistral with YaRN, and queries that grow with their position as in Llama 4."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.families.rope import ORIGINAL, RopeRules, rope_table
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

BETA = "llama_4_scaling_beta"
RULES = RopeRules(
    absent={
        "type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        ORIGINAL: 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        BETA: 0.1,
    },
    more=frozenset({BETA, "max_position_embeddings"}),  # the second says again what is beside the table
)
POSITIONS = 262144


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    own_size = c.names("head_dim") and not c.has("head_dim")  # null is hidden / heads
    defaults = Defaults(
        positions=POSITIONS, kv_heads=8, head_dim=None if own_size else 128, eps=1e-5, bos=1, eos=2, rope=RULES
    )
    layers, window = c.integer("num_hidden_layers"), c.integer("sliding_window", 0)
    table = rope_table(c, RULES)
    growth = 0.0 if table.value(BETA) == 0 else table.number(BETA, 0.0)
    return read_decoder(
        c,
        "ministral3",
        defaults,
        windows=(window,) * layers,
        query_growth=growth,
        query_positions=_trained(c, table) if growth else 1,
    )


def _trained(c: Fields, table: Fields) -> int:
    """The trained length: what is beside the table counts for the formulas that need it alone."""
    inside = table.integer(ORIGINAL, c.integer("max_position_embeddings", POSITIONS))
    kind = table.value("rope_type", table.value("type"))
    return c.integer(ORIGINAL, inside) if kind in ("llama3", "longrope", "yarn") else inside


FAMILY = Family(
    model_type="ministral3",
    architectures=("Ministral3ForCausalLM",),
    read=read,
    reads=keys("sliding_window"),
)
