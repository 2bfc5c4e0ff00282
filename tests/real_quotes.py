"""Real quotes of SGX and TDX with their collateral, and a real report of SEV-SNP, out of packages of PyPI.

`make quotes` puts them into a cache outside of the repository, where `make smollm2` puts its file; they are never
committed. From dcap-qvl's source (https://github.com/Phala-Network/dcap-qvl, MIT) come the quotes of Intel's machines,
and from omne-attest's wheel (Apache-2.0) the report of an AMD Milan machine with AMD's certificates. Where they can't
be had, the tests that need them are skipped, which fails a strict run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from smollm2 import FOLDER, fetch_member

__all__ = ["MEMBERS", "QUOTES", "REPORT"]

QUOTES = FOLDER / "quotes"
SOURCE = "dcap-qvl==0.7.0"
# Files of dcap-qvl's source by name, and their SHA-256.
MEMBERS = {
    "sgx_quote": "f8b81014b6e443609746822194910f5dc1c92c322fa0584298d1e33e505ca3b5",
    "sgx_quote_collateral.json": "bdd694bbe50f3a2a1cfe12f9e2bd83125921107a368edcf10780a5523b8501ce",
    "tdx_quote": "c42f9164325024bca2757bc8819b11879a0a369132ea4e2b7c85df4805ea72db",
    "tdx_quote_collateral.json": "b0a5f5fd620a8881b1eda45261fdf30dd930b49aff93231556645c81fcb4c0bc",
    "tdx_quote_outdated": "4c453ea417a7863ed67c215fe4735d91e26f359c760e5984a277866d8d5758e9",
    "tdx_quote_outdated_collateral.json": "05e91466e56352166c15a73654147c3d95d6f4ffa62bd150c3c8cbb1d75c3b15",
    "tdx_quote_td15ex": "fd88575b046315787daac21cb3657d03d95d74760a9c5006ad689fa5c2c498f7",
    "tdx_quote_td15ex_collateral.json": "29e1cb0c2dc98c2cc7f241cc142bdf9d61dee288276d33ae45d5fb2b6b5cc0b0",
}
REPORT = "omne-attest==0.1.0"
# Files of omne-attest's wheel.
REPORT_MEMBERS = {
    "attestation.bin": "377e6241d3b373ab1df80c0f96978594e7e21f4797dd6ea95e2957e1c1e26060",
    "kds_vcek.der": "8a6bb89dacfa0d3aa6f37e51311e346b0e9db32b791095a7072f354f52592e69",
    "milan_ark.der": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "milan_ask.der": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
}
# pip asks a source for its name before it keeps it, by a build tool for Rust, which nobody needs for its data.
BACKEND = """
import pathlib

def get_requires_for_build_wheel(settings=None):
    return []

def prepare_metadata_for_build_wheel(folder, settings=None):
    made = pathlib.Path(folder, "dcap_qvl-0.7.0.dist-info")
    made.mkdir()
    made.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: dcap-qvl\\nVersion: 0.7.0\\n")
    return made.name
"""


def fetch_source(folder: Path) -> None:
    """Puts MEMBERS there. Raises OSError or CalledProcessError without a network, ValueError for other files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        Path(place, "maturin.py").write_text(BACKEND, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", place]
        command = [*pip, "--no-binary", "dcap-qvl", SOURCE]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": place})
        [path] = Path(place).glob("*.tar.gz")
        with tarfile.open(path) as archive:
            for name, wanted in MEMBERS.items():
                file = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/sample/{name}")
                data = b"" if file is None else file.read()
                if hashlib.sha256(data).hexdigest() != wanted:
                    raise ValueError(f"{name} of {SOURCE} is another file")
                Path(place, name).write_bytes(data)
                Path(place, name).replace(folder / name)


if __name__ == "__main__":
    try:
        if not all((QUOTES / name).is_file() for name in MEMBERS):
            fetch_source(QUOTES)
        for name, digest in REPORT_MEMBERS.items():
            if not (QUOTES / name).is_file():
                fetch_member(REPORT, f"omne_attest/vectors/{name}", digest, QUOTES / name)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"quotes can't be fetched, so the tests that need them are skipped: {error}", file=sys.stderr)
