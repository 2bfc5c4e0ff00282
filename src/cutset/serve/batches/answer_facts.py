"""What the answers of a batch depend on: a run goes on with the same alone."""

from __future__ import annotations

import hashlib
from typing import Any

from cutset.serve.service import Service

__all__ = ["answer_facts"]


def answer_facts(service: Service) -> dict[str, Any]:
    """What answers depend on, beside the requests. Raises ModelError where files were changed since they were
    loaded."""
    llm, template = service.llm, service.llm.template_source
    files, tokenizer = llm.digests()
    return {
        "model": llm.name,
        "weights": f"{llm.name}, sha256 {files.hex()}",
        "tokenizer": f"sha256 {tokenizer.hex()}",
        "names": list(service.names),
        "computed by": f"{llm.choice.backend} {llm.choice.dtype}",
        "context": llm.max_model_len,
        "adapters": {name: found.digest.hex() for name in llm.adapters if (found := llm.adapter(name)) is not None},
        "chat template": hashlib.sha256(template.encode()).hexdigest() if template else None,
        "defaults": {name: str(value) for name, value in llm.generation.values.items()},
    }
