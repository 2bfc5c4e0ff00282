"""Which model answers a batch, and how: made ready here, or on another machine from the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cutset.config import Settings
from cutset.llm import AsyncLLM
from cutset.models.files.integer import Progress
from cutset.serve.app import model_applications
from cutset.serve.batches.batch_lines import ENVELOPE, LineAnswerer
from cutset.serve.request_limits import RequestLimits
from cutset.serve.responses.response_store import ResponseStore
from cutset.serve.service import Service

__all__ = ["ModelOrder"]


@dataclass(frozen=True)
class ModelOrder:
    """As the command was told. `adapter`: the one for requests that name none; `parsers`: of tool calls and reasoning;
    `body_bytes`: of a request."""

    model: str
    settings: Settings
    adapters: Mapping[str, str]
    names: Sequence[str]
    adapter: str | None
    chat_template: str | None
    parsers: tuple[str, str]
    body_bytes: int

    @property
    def longest(self) -> int:
        """Bytes of a line."""
        return self.body_bytes + ENVELOPE

    def open(self, progress: Progress | None = None) -> Service:
        """Loads the model; close `llm` of what comes back. Raises CutsetError."""
        llm = AsyncLLM(
            self.model,
            settings=self.settings,
            adapters=self.adapters,
            progress=progress,
            chat_template=self.chat_template,
        )
        try:
            tools, reasoning = self.parsers
            return Service(
                llm,
                names=self.names,
                limits=RequestLimits(body_bytes=self.body_bytes),
                tool_parser=tools,
                reasoning_parser=reasoning,
                adapter=self.adapter,
            )
        except BaseException:
            llm.close()
            raise

    def answerer(self, service: Service, digest: str) -> LineAnswerer:
        """Answers lines of the input with this digest by `service`."""
        return LineAnswerer(model_applications(service, ResponseStore()), digest, longest=self.longest)
