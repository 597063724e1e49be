"""Prefect flows, their settings and the command line.

Importing this package turns off the usage reports of the libraries that it brings in; a user's own setting wins.
"""

import os


def reached_directly(hosts: str) -> str:
    """``hosts``, the value of NO_PROXY, with this machine among them."""
    own = [host.strip() for host in hosts.split(",") if host.strip()]
    return "*" if "*" in own else ",".join(dict.fromkeys([*own, "localhost", "127.0.0.1", "::1"]))


for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # gemmill draws its own
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 are too few on a busy machine
    "TOKENIZERS_PARALLELISM": "false",  # the tokenizer library warns where a process forks after using its threads
}.items():
    os.environ.setdefault(_name, _value)

# What runs on this machine is never asked through a proxy, which would not find it. Both names, since libraries differ.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = reached_directly(
    os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
)
