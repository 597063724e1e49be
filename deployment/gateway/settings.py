"""How a gateway serves: its bounds, its keys, and where corrections go."""

from dataclasses import dataclass
from pathlib import Path

from deployment.gateway.keys import KeysFile


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """What ``gemmill serve`` is told; times in seconds."""

    feedback: Path  # the file that corrected answers are appended to
    parallel: int = 4  # answers that are made at a time
    queue: int = 64  # requests that wait for one of them
    timeout: float = 30.0  # from a request to its answer
    rate: int = 0  # requests a minute of one key or address; 0: any number
    keys: KeysFile | None = None
    loopback: bool = True  # whether only this machine can reach it
    log_texts: bool = False  # commands and answers in the log
