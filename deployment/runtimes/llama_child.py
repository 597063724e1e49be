"""The child process around llama.cpp: ``python -P llama_child.py '{"gguf": ..., ...}'``.

Prints the server's address on one line and serves until standard input closes, which it does when the parent
ends for whatever reason. Standard error is a file for llama.cpp's errors. Imports nothing of this project.
"""

# pyright: reportAttributeAccessIssue=false
# xllamacpp is a compiled module without stubs.

import functools
import json
import os
import sys
import time
from typing import Any

import xllamacpp

_LAST_LINE = b"exiting due to"  # of the log of a file that does not load
_LOG_TIMEOUT = 3.0  # seconds
_LOG_BYTES = 1 << 20
_ERRORS_ONLY = 1  # llama.cpp's verbosity: 1 errors, 2 warnings, 3 information


def _parameters(options: dict[str, Any]) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = options["gguf"]
    if options["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(options["adapter"])]
    params.n_parallel = options["slots"]
    params.n_ctx = options["slots"] * options["context"]  # the server divides it among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    params.fit_params = False  # never shrink the context in silence
    params.cache_ram_mib = 0  # prompts are short; the default keeps up to 8 GiB of them
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = _ERRORS_ONLY
    for name, value in options["parameters"].items():
        *groups, last = name.split(".")
        setattr(functools.reduce(getattr, groups, params), last, value)
    return params


def _wait_for_log() -> None:
    """llama.cpp logs from a thread that a quick exit cuts off; standard error is a file that can be read."""
    deadline = time.monotonic() + _LOG_TIMEOUT
    while _LAST_LINE not in _log() and time.monotonic() < deadline:
        time.sleep(0.01)


def _log() -> bytes:
    if hasattr(os, "pread"):
        return os.pread(2, _LOG_BYTES, 0)
    os.lseek(2, 0, os.SEEK_SET)  # on Windows
    return os.read(2, _LOG_BYTES)


def main() -> None:
    # llama.cpp may print; the parent must read nothing but the address.
    address_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        server = xllamacpp.Server(_parameters(json.loads(sys.argv[1])))
    except RuntimeError:
        _wait_for_log()
        raise
    address_stream.write(server.listening_address + "\n")
    address_stream.close()
    sys.stdin.buffer.read()
    os._exit(0)  # nothing to save, and the server's own shutdown waits for running requests


if __name__ == "__main__":
    main()
