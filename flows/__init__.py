"""Prefect flows, their settings and the command line.

Importing this package turns off the usage reports of the libraries that it brings in; a user's own setting wins.
"""

import os

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
