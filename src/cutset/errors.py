"""Every error that Cutset raises on purpose.

    CutsetError                  anything below; the command line prints it and exits with 2
    ├── ConfigError              a flag, CUTSET_ variable, cutset.toml or models.yaml that can't be used
    ├── ModelError               a model directory that can't be used
    │   ├── ArchitectureError    its config.json asks for a network that Cutset doesn't know
    │   ├── CheckpointError      its tensors are missing, misshapen, unexpected, cut off or hostile
    │   ├── GraphError           it can't be exported as a graph of layers, or not be cut in that place
    │   └── TokenizerError       its tokenizer can't be read, or can't do what was asked (chat without a template)
    ├── RequestError             a prompt or sampling parameter out of its range
    │   └── ContextLengthError   the prompt doesn't fit in the context
    ├── DeviceError              a device, instruction set or library that isn't there
    ├── EngineError              the engine stopped; what was running is lost
    ├── SourceError              a video, folder, camera or stream whose pictures can't be had
    │   └── SourceLost           a camera or stream that was lost while it played, and didn't come back
    ├── LinkError                a channel between two parties
    │   ├── LinkTimeout          the other side didn't answer, or didn't take what was sent, in time
    │   ├── LinkClosed           the other side closed the channel, died, or was never there
    │   ├── HandshakeError       the other side is another version, has another model, or isn't who it must be
    │   │   └── EvidenceError    its evidence is missing, can't be read, or isn't what a policy asks for
    │   └── FrameError           what came isn't a frame, or is larger than allowed
    └── OffloadError             the mode that was asked for can't be kept
        └── IntegrityError       a party gave a wrong product: the session is over

The message says what was wrong and what to do, in one or two lines. A bug in Cutset is any other exception.
"""

import re

__all__ = [
    "ArchitectureError",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "CutsetError",
    "DeviceError",
    "EngineError",
    "EvidenceError",
    "FrameError",
    "GraphError",
    "HandshakeError",
    "IntegrityError",
    "LinkClosed",
    "LinkError",
    "LinkTimeout",
    "ModelError",
    "OffloadError",
    "RequestError",
    "SourceError",
    "SourceLost",
    "TokenizerError",
]

# Control characters but the line feed; what changes the direction of writing, or breaks a line unseen; tags; what is no
# character at all. U+200C and U+200D stay: many scripts can't be written without them.
OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)


def printable(text: str, *, lines: bool = True) -> str:
    """A text of which a part comes from another party or a file, without what a terminal would obey or hide behind.

    Line ends stay, unless `lines` says no. This is the one function for it."""
    return OBEYED.sub("\ufffd", text if lines else text.replace("\n", "\ufffd"))


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of a library's error that says something, else its kind, for a message of ours."""
    lines = (line.strip() for line in str(error).splitlines())
    return printable(next((line for line in lines if line), type(error).__name__), lines=False)[:most]


class CutsetError(Exception):
    """What the user can act on. Its message is shown as it is, without a traceback."""


class ConfigError(CutsetError):
    """A flag, environment variable or configuration file can't be used."""


class ModelError(CutsetError):
    """A model directory can't be used."""


class AdapterError(ModelError):
    """A LoRA adapter isn't there, isn't one for this model, or uses what isn't supported."""


class ArchitectureError(ModelError):
    """The configuration asks for a network that Cutset doesn't know."""


class CheckpointError(ModelError):
    """The tensors of a checkpoint are missing, misshapen, unexpected, cut off or hostile."""


class GraphError(ModelError):
    """A network can't be exported as a graph of layers, or a graph can't be read, cut or run as was asked."""


class TokenizerError(ModelError):
    """The tokenizer can't be read or can't do what was asked."""


class RequestError(CutsetError):
    """A prompt or a sampling parameter is out of its range."""


class ContextLengthError(RequestError):
    """The prompt and what is to be generated don't fit in the context.

    `prompt_tokens` and `limit` are counts of tokens.
    """

    def __init__(self, message: str, *, prompt_tokens: int, limit: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class DeviceError(CutsetError):
    """A device, an instruction set or a library that was asked for isn't there."""


class EngineError(CutsetError):
    """The engine stopped; what was running is lost."""


class SourceError(CutsetError):
    """A video, a folder of pictures, a camera or a stream can't be opened or read."""


class SourceLost(SourceError):
    """A camera or stream was lost while it played, and didn't come back in time."""


class LinkError(CutsetError):
    """A channel between two parties failed."""


class LinkTimeout(LinkError):
    """The other side didn't answer, or didn't take what was sent, in time."""


class LinkClosed(LinkError):
    """The other side closed the channel, died, or was never there."""


class HandshakeError(LinkError):
    """The other side refuses this one, or is another version, has another model or can't show what it must."""


class EvidenceError(HandshakeError):
    """The other side's evidence is missing, can't be read or verified, or isn't what a policy asks for."""


class FrameError(LinkError):
    """What came isn't a frame, or (`too_large`) has more bytes than its receiver takes."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class OffloadError(CutsetError):
    """The mode that was asked for can't be kept, so nothing is sent."""


class IntegrityError(OffloadError):
    """A party gave a wrong product or broke the protocol; the session is over."""
