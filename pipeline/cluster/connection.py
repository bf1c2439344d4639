"""The Ray cluster of a run: a laptop is a cluster of one."""

import logging
import os
import re
import signal
import socket
import tempfile
import threading
from typing import Any

import ray
from ray.exceptions import RayError

from capfilt.data_contracts.errors import StageError, UsageError
from capfilt.pipeline.cluster.capacity import alive
from capfilt.pipeline.cluster.scheduler import WorkerPool

# Image bytes never travel through the object store, so it can be small.
OBJECT_STORE = 128 * 2**20
CONNECT_SECONDS = 20.0


class Connection:
    """A connection to Ray. ``address`` null: the one that this process has, else RAY_ADDRESS, else one started here.

    A connection that the process had already is used as it is, and left open. What the process does on SIGTERM stays
    as it was.

    Raises:
        UsageError: the process is connected already, and another address is given.
        StageError: the cluster does not answer.
    """

    def __init__(self, address: str | None) -> None:
        self._borrowed = ray.is_initialized()
        if self._borrowed and address:
            raise UsageError(
                what="this process is connected to Ray already",
                evidence=f"ray.init() was called in it, and {address} is given",
                remedy="give no address, which uses that connection; or call ray.shutdown() before",
            )
        if not self._borrowed:
            self._connect(address)

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            _demand_listener(address)
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if not address:
            options |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
        # Ray puts the driver's working directory first on every worker's path, where a file of the user's called
        # `tokenizers.py` would hide a library. An empty working directory, of which Ray takes a copy, hides nothing.
        with tempfile.TemporaryDirectory(prefix="capfilt-") as empty:
            if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
                options["runtime_env"] = {"working_dir": empty}
            on_term = signal.getsignal(signal.SIGTERM)
            try:
                # A null address would be the cluster that `ray start` last made on this machine, if any.
                ray.init(address=address or "local", **options)
            except (ConnectionError, RuntimeError, ValueError, RayError) as error:
                raise StageError(
                    what=f"no connection to the Ray cluster{f' at {address}' if address else ''}",
                    evidence=str(error).strip().splitlines()[0],
                    remedy="see that it runs (`ray status`); with token authentication set RAY_AUTH_MODE=token "
                    "and RAY_AUTH_TOKEN",
                ) from error
            finally:
                if threading.current_thread() is threading.main_thread() and on_term is not None:
                    signal.signal(signal.SIGTERM, on_term)  # Ray's own prints a page of stacks

    @property
    def size(self) -> tuple[int, dict[str, float]]:
        """How many nodes are alive, and the sums of what they have."""
        return len(alive()), ray.cluster_resources()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if not self._borrowed:
            ray.shutdown()


class Cluster(Connection):
    """A connection and the warm workers of a run; ``poison_limit`` and ``patience`` are the pool's."""

    def __init__(self, address: str | None, run: str, poison_limit: int, patience: float) -> None:
        super().__init__(address)
        self.pool = WorkerPool(run, poison_limit, patience)

    def close(self) -> None:
        self.pool.close()
        super().close()


def _demand_listener(address: str) -> None:
    """Raise :class:`StageError` at once when nobody listens there: Ray itself tries for minutes."""
    found = re.search(r"(?:^|://)\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)$", address)
    if not found:
        return
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise StageError(
            what=f"no connection to the Ray cluster at {address}",
            evidence=str(error),
            remedy="give the address of a running cluster in --address or RAY_ADDRESS, or neither to start Ray here",
        ) from error
