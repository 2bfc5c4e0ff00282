"""What a server shows: a quote, and all that the quote's report data is made of but what the asker knows itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec

from cutset.errors import EvidenceError
from cutset.trust.evidence.device_reports import MOST_DEVICES, DeviceReport, device_nonce, devices_digest
from cutset.trust.evidence.layouts import MOST_QUOTE
from cutset.trust.evidence.providers import Provider
from cutset.trust.evidence.served_files import MOST_FILES, ServedFile, manifest_digest
from cutset.trust.evidence.simulated_quote import NOT_CONFIDENTIAL
from cutset.trust.evidence.statement import Statement

__all__ = ["MOST_DOCUMENT", "EvidenceDocument", "Prover", "read_document"]

MOST_DOCUMENT = 256 << 10  # bytes
Word = Annotated[str, msgspec.Meta(max_length=100, pattern=r"\A[\x20-\x7e]*\Z")]


class EvidenceDocument(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """As JSON; `quote` is in base64. `notice` is for people: what the kind of evidence is worth. `devices`: absent
    where none vouches."""

    format: Literal["cutset evidence 1"] = "cutset evidence 1"
    kind: Literal["sgx", "tdx", "snp", "simulator"]
    notice: Word
    mode: Word
    version: Word
    files: Annotated[list[ServedFile], msgspec.Meta(max_length=MOST_FILES)]
    quote: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MOST_QUOTE)]
    devices: Annotated[list[DeviceReport], msgspec.Meta(min_length=1, max_length=MOST_DEVICES)] | msgspec.UnsetType = (
        msgspec.UNSET
    )

    @property
    def reports(self) -> list[DeviceReport]:
        """Those of its devices; none where there are none."""
        return [] if isinstance(self.devices, msgspec.UnsetType) else self.devices

    def statement(self, channel: str, key: bytes, nonce: bytes) -> Statement:
        """What its quote must be bound to, for somebody who sees this key and asked with this nonce."""
        digest = devices_digest(self.reports)
        return Statement(channel, key, manifest_digest(self.files), self.mode, self.version, nonce, digest)


class Prover:
    """Shows evidence of one server: what it has loaded is fixed, keys of channels and nonces are not."""

    def __init__(self, provider: Provider, files: list[ServedFile], mode: str, version: str) -> None:
        self.provider, self._files, self._mode, self._version = provider, files, mode, version
        self._manifest = manifest_digest(files)

    @property
    def notice(self) -> str:
        """What evidence of this kind is worth; empty where it is worth something."""
        return "" if self.provider.confidential else f"{NOT_CONFIDENTIAL}: a simulator's evidence proves nothing"

    def show(self, channel: str, key: bytes, nonce: bytes) -> bytes:
        """The document for one asker, as JSON. Takes as long as a quote does. Raises ConfigError."""
        said, asked = Statement(channel, key, self._manifest, self._mode, self._version, nonce), self.provider.devices
        reports = [] if asked is None else asked.reports(device_nonce(said.report_data))
        said = replace(said, devices=devices_digest(reports))
        document = EvidenceDocument(
            kind=self.provider.kind,  # type: ignore[arg-type]  # one of EVIDENCE_KINDS
            notice=self.notice,
            mode=self._mode,
            version=self._version,
            files=self._files,
            quote=self.provider.quote(said.report_data),
            devices=reports or msgspec.UNSET,
        )
        return msgspec.json.encode(document)


_decoder = msgspec.json.Decoder(EvidenceDocument)


def read_document(data: bytes) -> EvidenceDocument:
    """Raises EvidenceError for what is none."""
    if len(data) > MOST_DOCUMENT:
        raise EvidenceError(f"its evidence has more than {MOST_DOCUMENT >> 10} KiB")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EvidenceError(f"its evidence can't be read: {error}") from None
