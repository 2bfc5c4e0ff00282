"""Renders the Gramine manifest template of a client. `gramine-manifest` fills in where Gramine itself lies.

Inside, the enclave sees `/python`, `/app`, `/libs` and `/model`, each file of them by its digest, Gramine's own `/lib`,
`/private` (encrypted: the prompt and the answer), and the ring. Nothing else can be opened or comes from the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.errors import ConfigError, ModelError, OffloadError
from cutset.link import parse_address
from cutset.models.files.formats import weight_files
from cutset.models.files.gguf_path import is_gguf
from cutset.models.files.source import open_source
from cutset.offload.enclave.client_files import MeasuredFiles, client_files, digest, model_files
from cutset.offload.enclave.memory_sizes import Use, enclave_bytes, parts, size_text

__all__ = ["ATTESTATIONS", "Manifest", "Provision", "render"]

ATTESTATIONS = ("dcap", "none")
UNPROVIDED = (
    "--attestation {}: provisioning of the encrypted mount's key is not there yet, so an attested manifest couldn't run"
    "; --provision-from and --provision-seal say who has it"
)
CA = "/app/key-server.pem"
SERVER, SEAL = re.compile(r"https://[A-Za-z0-9._:\[\]-]{1,200}"), re.compile(r"[0-9a-f]{64}")
RING = "/dev/shm/cutset"  # the one directory in which rings lie; both sides find it by CUTSET_SHM_DIR
GRAMINE_THREADS = 4  # Gramine's own, as its documentation counts them
LINK_THREADS = 3  # the pads' thread, and two of ZeroMQ
TEXT = """\
# The client of a private offload, by `cutset manifest`. Check it with `cutset manifest --check FILE`.
# Enclave size:
{sizes}

loader.entrypoint.uri = "file:{{{{ gramine.libos }}}}"  # a table since Gramine 1.8
loader.log_level = "error"
loader.argv = {argv}
{env}

libos.entrypoint = "/python/bin/python3"
sys.disallow_subprocesses = true  # a copy of a process would use its masks again
sys.stack.size = "2M"

fs.root.type = "tmpfs"
fs.start_dir = "/"
fs.mounts = [
  {{ path = "/lib", uri = "file:{{{{ gramine.runtimedir() }}}}" }},
{mounts}
]

sgx.debug = false
sgx.edmm_enable = false
sgx.enclave_size = "{size}"
sgx.max_threads = {threads}
sgx.remote_attestation = "{attestation}"
sgx.isvprodid = {product}
sgx.isvsvn = {svn}
sgx.file_check_policy = "strict"
{allowed}
sgx.trusted_files = [
  {{ uri = "file:{{{{ gramine.libos }}}}" }},
  {{ uri = "file:{{{{ gramine.runtimedir() }}}}/" }},
{trusted}
]
"""


@dataclass(frozen=True, slots=True)
class Provision:
    """Where an attested enclave gets the key of its encrypted mount: `cutset trust provision` asks there first.

    `server`: https://HOST:PORT. `seal`: which of its keys. `ca`: a file of certificates that is measured. `svn`: raised
    with each release that mends something, so that policies can refuse older ones."""

    server: str
    seal: str
    ca: Path | None = None
    product: int = 0
    svn: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """A rendered template, and what its size is made of in bytes."""

    text: str
    sizes: dict[str, int]
    enclave_size: int
    files: int


def render(
    model: Path,
    address: str,
    use: Use,
    *,
    attestation: str = "none",
    pads_from: str = "",
    command: Sequence[str] = (),
    client: MeasuredFiles | None = None,
    provision: Provision | None = None,
) -> Manifest:
    """The template for the client of `model` that offloads to `address`.

    `command` replaces what the enclave runs after `cutset`; `client` is what `client_files` finds.
    Raises OffloadError for what can't be kept in an enclave, ModelError for a model that can't be used.
    """
    model = model.resolve()
    spec = open_source(model).spec
    if is_gguf(model):
        raise ModelError(
            f"{model} is a GGUF file; the client in an enclave has a directory: make one with "
            f"`cutset quantize {model} -o DIR`"
        )
    if spec.moe is not None:
        raise OffloadError(
            "a mixture of experts isn't offloaded in masked modes: the rows of an expert tell the routing"
        )
    if attestation not in ATTESTATIONS:
        raise ConfigError(f"attestation must be one of {', '.join(ATTESTATIONS)}, not {attestation!r}")
    if (attestation != "none") != (provision is not None):
        if provision is None:
            raise OffloadError(UNPROVIDED.format(attestation))
        raise ConfigError("a key is provisioned to evidence alone: say --attestation dcap")
    if provision is not None:
        _check_provision(provision)
    if use.context > spec.longest:
        raise ConfigError(f"the context must be at most the model's {spec.longest} tokens, not {use.context}")
    for each in (address, pads_from) if pads_from else (address,):
        if not each.startswith(("shm://", "tcp://")):
            raise OffloadError(f"{each!r} can't be reached from an enclave: use shm:// or tcp://")
        parse_address(each)
    if pads_from.startswith("shm://"):
        raise OffloadError(f"{pads_from!r} is on this machine, as the accelerator may be: pads come over tcp://")
    ring = f"{RING}/" if address.startswith("shm://") else ""
    client = client or (client_files() if provision is None else client_files(asking=True))
    measured = model_files(model)
    sizes = parts(spec, use, sum(file.stat().st_size for file in weight_files(model)))
    size = enclave_bytes(sizes)
    mounts = [(mount.path, mount.source) for mount in client.mounts] + [("/model", model)]
    lines = [f"  {{ path = {_text(path)}, uri = {_text(f'file:{source}')} }}," for path, source in mounts]
    # Keys of the links are there too.
    lines.append('  { type = "encrypted", path = "/private", uri = "file:private", key_name = "private" },')
    if ring:
        lines.append(f'  {{ type = "untrusted_shm", path = {_text(ring[:-1])}, uri = {_text(f"dev:{ring}")} }},')
    arguments = list(command or _generate(address, pads_from, use))
    if provision is not None:
        arguments = _provisioned(provision, arguments)
        if provision.ca is not None:
            lines.append(f"  {{ path = {_text(CA)}, uri = {_text(f'file:{provision.ca.resolve()}')} }},")
            measured = (*measured, provision.ca.resolve())
    text = TEXT.format(
        sizes="\n".join(f"#   {name}: {amount / (1 << 20):.1f} MiB" for name, amount in sizes.items()),
        argv=json.dumps(["/python/bin/python3", "-S", "-s", "-P", "-B", "-m", "cutset.cli", *arguments]),
        env="\n".join(f"loader.env.{name} = {_text(value)}" for name, value in _environment(use).items()),
        mounts="\n".join(lines),
        size=size_text(size),
        threads=1 << (use.threads + GRAMINE_THREADS + LINK_THREADS - 1).bit_length(),
        attestation=attestation,
        product=0 if provision is None else provision.product,
        svn=0 if provision is None else provision.svn,
        # Gramine opens files of an untrusted mount only where they are named here; this is the ring, and nothing else.
        allowed=f"sgx.allowed_files = [{_text(f'dev:{ring}')}]" if ring else "",
        trusted="\n".join(
            f"  {{ uri = {_text(f'file:{file}')}, sha256 = {_text(digest(file))} }},"
            for file in (*client.files, *measured)
        ),
    )
    return Manifest(text, sizes, size, len(client.files) + len(measured))


def _check_provision(provision: Provision) -> None:
    """Raises ConfigError for what can't be asked."""
    if not SERVER.fullmatch(provision.server) or not SEAL.fullmatch(provision.seal):
        raise ConfigError("--provision-from must be https://HOST:PORT, --provision-seal 64 hexadecimal digits")
    if provision.ca is not None and not provision.ca.is_file():
        raise ConfigError(f"{provision.ca} is not a file of certificates")
    if not 0 <= provision.product < 65536 or not 0 <= provision.svn < 65536:
        raise ConfigError("--isv-prod-id and --isv-svn must be from 0 to 65535")


def _provisioned(provision: Provision, arguments: list[str]) -> list[str]:
    """The same arguments, once the key of the encrypted mount is there."""
    asking = ["trust", "provision", "--from", provision.server, "--seal", provision.seal]
    asking += [] if provision.ca is None else ["--ca", CA]
    return [*asking, "--", *arguments]


def _generate(address: str, pads_from: str, use: Use) -> list[str]:
    arguments = ["generate", "/model", "--offload", address, "--mode", "masked+verified"]
    if not address.startswith("shm://"):
        arguments += ["--key", "/private/client.key", "--accelerator-key", "/private/accelerator.pub"]
    if pads_from:
        arguments += ["--key", "/private/client.key"] if address.startswith("shm://") else []
        arguments += ["--pads-from", pads_from, "--pads-key", "/private/pads.pub"]
    arguments += ["--max-model-len", str(use.context), "--max-num-seqs", str(use.sequences)]
    return [*arguments, "--prompt-file", "/private/prompt.txt", "--output", "/private/answer.txt"]


def _environment(use: Use) -> dict[str, str]:
    """All variables that the client sees."""
    return {
        "HOME": "/",
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": "/lib:/libs",
        "MALLOC_ARENA_MAX": "1",
        "PYTHONHOME": "/python",
        "PYTHONPATH": "/app",
        "OMP_NUM_THREADS": str(use.threads),
        "OPENBLAS_NUM_THREADS": str(use.threads),
        "CUTSET_THREADS": str(use.threads),
        "CUTSET_OFFLINE": "1",
        "CUTSET_SHM_DIR": RING,
    }


def _text(value: str) -> str:
    """A TOML string. Raises ModelError for a path that the template language would change."""
    if not value.isprintable() or "{{" in value or "{%" in value:
        raise ModelError(f"{value!r} can't stand in a manifest; move it to a plainer path")
    return json.dumps(value, ensure_ascii=False)
