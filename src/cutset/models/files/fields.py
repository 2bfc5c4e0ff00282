"""Reads JSON files of a model within limits, and their fields by type; every error names the field and the file."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cutset.errors import ArchitectureError, ModelError
from cutset.models.files.lfs import check_no_pointer
from cutset.models.spec import MOST_POSITIONS

__all__ = ["MOST", "MOST_NUMBER", "Fields", "read_json"]

MOST_JSON_BYTES = 64 << 20

# Sizes beyond these are no model but an attack or a slip; they are checked before anything is allocated.
MOST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "num_hidden_layers": 4096,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "intermediate_size": 1 << 22,
    "moe_intermediate_size": 1 << 22,
    "max_position_embeddings": MOST_POSITIONS,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "n_routed_experts": 4096,
    "n_shared_experts": 256,
}
MOST_NUMBER = 1e30


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 64 MiB. Raises ModelError for anything else."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelError(f"{path} is larger than {MOST_JSON_BYTES >> 20} MiB: that is no configuration")
        data = path.read_bytes()
        check_no_pointer(path, data, ModelError)
        value = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


class Fields:
    """Typed access to the fields of a configuration. `asked` has the names of those that anybody looked at."""

    def __init__(self, values: dict[str, Any], source: str) -> None:
        self.values, self.source = values, source
        self.asked: set[str] = set()

    def wrong(self, name: str, wanted: str) -> ArchitectureError:
        """The error for a field that isn't what it must be."""
        return ArchitectureError(f"{self.source}: {name} must be {wanted}, not {self.values.get(name)!r}")

    def names(self, name: str) -> bool:
        """The field is there, be it null."""
        self.asked.add(name)
        return name in self.values

    def has(self, name: str) -> bool:
        """The field is there and not null."""
        return self.value(name) is not None

    def value(self, name: str, default: Any = None) -> Any:
        """The field as it is; `default` if it isn't there."""
        self.asked.add(name)
        return self.values.get(name, default)

    def integer(self, name: str, default: int | None = None, least: int = 1, most: int | None = None) -> int:
        """A whole number from `least` to `most`, or to what MOST says. Raises ArchitectureError, as the others do."""
        value = self.value(name)
        if value is None:
            if default is None:
                raise ArchitectureError(f"{self.source}: {name} is missing")
            return default
        most = MOST.get(name, 1 << 31) if most is None else most
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number of at most MOST_NUMBER."""
        value = self.value(name)
        if value is None:
            if default is None:
                raise ArchitectureError(f"{self.source}: {name} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_NUMBER:
            raise self.wrong(name, f"a positive number of at most {MOST_NUMBER:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def table(self, name: str) -> Fields | None:
        """The fields of an object; None where there is none."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self.source}: {name}")

    def token_ids(self, name: str, vocab: int) -> tuple[int, ...]:
        """One token id or a list of them; those outside of the vocabulary are left out."""
        value = self.value(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
            raise self.wrong(name, "a token id or a list of them")
        return tuple(i for i in ids if 0 <= i < vocab)  # some files name -1 or a token of a larger vocabulary

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises ArchitectureError for a field that says something and isn't `known`: it may change the answer."""
        for name, value in self.values.items():
            if value is not None and name not in known:
                raise ArchitectureError(
                    f"{self.source}: {name[:60]} is not supported; remove it if it changes no answer"
                )
