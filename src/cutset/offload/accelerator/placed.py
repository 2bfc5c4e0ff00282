"""An accelerator that Ray places on a node of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from cutset.cluster.launch.party_needs import Needs, parse_places
from cutset.cluster.launch.ray_launcher import PartyOrder, RayLauncher, check_ray
from cutset.cluster.launch.supervisor import Supervisor
from cutset.config import Settings
from cutset.errors import ConfigError

__all__ = ["PASSED_ON", "PlacedAccelerator"]

NAME = "accelerator"  # of the one party, for --place
PASSED_ON = ("max_rows", "window_us", "clients", "clients_per_key", "idle")  # of the command's flags
MEMORY = 1 << 30  # bytes that are reserved where --place names none
TICK = 0.2  # seconds between two looks


class PlacedAccelerator:
    """One that runs until it is closed; started again, with a new key, when it ends. Raises CutsetError."""

    def __init__(
        self,
        model: str,
        words: Sequence[str],
        allowed: frozenset[bytes],
        settings: Settings,
        log: Callable[[str], None],
    ) -> None:
        """`words`: flags of `cutset accelerator`; `allowed`: public keys of the clients; `log`: where it is."""
        insecure = settings.insecure_ray
        options = check_ray(settings.ray, settings.place, insecure=insecure, counted=True, flag="--stages")
        if options is None:
            raise ConfigError("an accelerator is placed by --ray local, auto or HOST:PORT")
        threads = settings.threads or 1
        needs = parse_places(options.places, [NAME], Needs(float(threads), MEMORY))[NAME]
        threads = max(1, int(needs.cpus))
        device = "cuda" if needs.gpus and settings.device == "cpu" else settings.device
        command = ["cutset.cli", "accelerator", model, *words, "--threads", str(threads), "--device", device]
        self._log = log
        self._launcher = RayLauncher({NAME: PartyOrder(command, threads, needs, allowed)}, options, log=log)
        self._supervisor = Supervisor(self._launcher, log)

    @property
    def place(self) -> tuple[str, bytes]:
        """Address and public key."""
        address, key = self._launcher.addresses[NAME]
        assert key is not None
        return address, key

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Until `stopped()`; says where it is, each time that this is another place."""
        said: tuple[str, bytes] | None = None
        while not stopped():
            if self.place != said:
                address, key = said = self.place
                self._log(
                    f"listening on {address}, public key {key.hex()}: clients take --offload {address}, and "
                    "--accelerator-key FILE with that key in it"
                )
            time.sleep(TICK)

    def close(self) -> None:
        """Ends it. A second call does nothing."""
        self._supervisor.close()
        self._launcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
