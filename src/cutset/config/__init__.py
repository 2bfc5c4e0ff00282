"""Settings: flags over CUTSET_ variables over cutset.toml over defaults, each value with where it came from.

`cutset.toml` is looked for in the current directory, then in the user's configuration directory; the first one found
is the only one read, but for settings that promise something (`Option.strict`). CUTSET_CONFIG names another. An empty
variable counts as not set. What is unknown is an error.

Every setting is declared once: as a field of `Settings` (language models), or of `StreamSettings` (video networks),
whose variables begin with CUTSET_STREAM_ and whose table in cutset.toml is [stream]. `OPTIONS` and `STREAM_OPTIONS` are
these two tables. Only the standard library is loaded.
"""

from cutset.config.cores import usable_cores
from cutset.config.option import Option, did_you_mean, gather, parse_toml, read_bounded
from cutset.config.settings import (
    EVIDENCE_KINDS,
    OPTIONS,
    STREAM_OPTIONS,
    Settings,
    StreamSettings,
    load_settings,
    load_stream_settings,
    parse_size,
)

__all__ = [
    "EVIDENCE_KINDS",
    "OPTIONS",
    "STREAM_OPTIONS",
    "Option",
    "Settings",
    "StreamSettings",
    "did_you_mean",
    "gather",
    "load_settings",
    "load_stream_settings",
    "parse_size",
    "parse_toml",
    "read_bounded",
    "usable_cores",
]
