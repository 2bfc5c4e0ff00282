"""What Gramine 1.9 takes as a manifest, as a JSON schema: every key that its documentation has, and its type.

https://gramine.readthedocs.io/en/v1.9/manifest-syntax.html; Gramine checks the same in `gramine-manifest-check`.
"""

from __future__ import annotations

from typing import Any

TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
SIZE = {"type": "string", "pattern": r"^[0-9]+[KMG]?$"}
URI = {"type": "string", "pattern": r"^(file|dev):."}
HASH = {"type": "string", "pattern": r"^[0-9a-f]{64}$"}
MASK = {"type": "string", "pattern": r"^0x[0-9a-f]+$"}


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": list(words)}


def table(keys: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": keys, "required": list(required), "additionalProperties": False}


def rows(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def mounted(place: dict[str, Any], *required: str) -> dict[str, Any]:
    """The kinds of a mount; the root has no path of its own."""
    return {
        "anyOf": [
            table({"type": one_of("chroot"), "uri": URI} | place, "uri", *required),
            table({"type": one_of("encrypted"), "uri": URI, "key_name": TEXT} | place, "type", "uri", *required),
            table({"type": one_of("tmpfs"), "uri": TEXT} | place, "type", *required),
            table({"type": one_of("untrusted_shm"), "uri": URI} | place, "type", "uri", *required),
        ]
    }


VARIABLE = {
    "anyOf": [TEXT, table({"value": TEXT}, "value"), table({"passthrough": {"const": True}}, "passthrough")],
}
FEATURE, MODE = one_of("disabled", "required"), one_of("unspecified", "disabled", "required")
GRAMINE: dict[str, Any] = table(
    {
        "fs": table(
            {
                "mounts": rows(mounted({"path": TEXT}, "path")),
                "root": mounted({}),
                "start_dir": TEXT,
                "insecure__keys": {"type": "object", "additionalProperties": TEXT},
            },
            "mounts",
        ),
        "libos": table({"entrypoint": TEXT, "check_invalid_pointers": FLAG}, "entrypoint"),
        "loader": table(
            {
                "entrypoint": table({"uri": URI, "sha256": HASH}),
                "argv": rows(TEXT),
                "argv_src_file": TEXT,
                "env": {"type": "object", "additionalProperties": VARIABLE},
                "env_src_file": TEXT,
                "uid": NUMBER,
                "gid": NUMBER,
                "log_file": TEXT,
                "log_level": one_of("none", "error", "warning", "debug", "trace", "all"),
                "insecure__use_cmdline_argv": FLAG,
                "insecure__use_host_env": FLAG,
                "insecure__disable_aslr": FLAG,
            }
        ),
        "sgx": table(
            {
                "allowed_files": rows(TEXT),
                "cpu_features": table({"avx": MODE, "avx512": MODE, "amx": MODE, "mpx": FEATURE, "pkru": FEATURE}),
                "debug": FLAG,
                "edmm_enable": FLAG,
                "enable_stats": FLAG,
                "enclave_size": SIZE,
                "file_check_policy": one_of("strict", "allow_all_but_log"),
                "insecure__allow_memfaults_without_exinfo": FLAG,
                "insecure__rpc_thread_num": NUMBER,
                "isvprodid": NUMBER | {"maximum": 65535},
                "isvsvn": NUMBER | {"maximum": 65535},
                "max_threads": NUMBER,
                "preheat_enclave": FLAG,
                "profile": table({"enable": TEXT, "mode": TEXT, "with_stack": FLAG, "frequency": NUMBER}),
                "ra_client_linkable": FLAG,
                "ra_client_spid": TEXT,
                "remote_attestation": one_of("none", "dcap", "epid"),
                "seal_key": table({"flags_mask": MASK, "xfrm_mask": MASK, "misc_mask": MASK}),
                "trusted_files": rows({"anyOf": [TEXT, table({"uri": URI, "sha256": HASH}, "uri")]}),
                "trusted_files_cache_size": SIZE,
                "use_exinfo": FLAG,
                "vtune_profile": FLAG,
            }
        ),
        "sys": table(
            {
                "allowed_ioctls": {"type": "array"},
                "brk": table({"max_size": SIZE}),
                "disallow_subprocesses": FLAG,
                "enable_extra_runtime_domain_names_conf": FLAG,
                "enable_sigterm_injection": FLAG,
                "experimental__enable_flock": FLAG,
                "fds": table({"limit": NUMBER}),
                "insecure__allow_eventfd": FLAG,
                "ioctl_structs": {"type": "object"},
                "stack": table({"size": SIZE}),
            }
        ),
    },
    "fs",
    "libos",
    "loader",
)
