"""A real Ollama server, for the tests that need one."""

import os

import httpx
import pytest


def live_ollama() -> str:
    """The host of the server that OLLAMA_HOST names, else of this machine's; skips the test where none answers."""
    host = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434")
    try:
        httpx.get(f"http://{host.removeprefix('http://')}/api/version", timeout=2).raise_for_status()
    except httpx.HTTPError:
        pytest.skip(f"no Ollama server answers at {host}; start one or set OLLAMA_HOST")
    return host
