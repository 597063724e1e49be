"""A package on a device that runs Ollama: upload, create, try, and only then switch over.

Devices ask for ``NAME:latest``. A new package is created under a name of this deploy alone and must give its golden
answers there before it takes the other name; a device keeps the model that works until another one does.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from deployment.packages.package import Golden, Package
from deployment.runtimes.ollama import OllamaClient
from registry.errors import GateBlocked, NoAnswer, ServiceUnavailable, UsageError
from registry.records import same_answer

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 600.0  # a slow device loads a model from a slow disk before its first answer
_LOCK_SECONDS = 1800.0  # another deploy to the device sends, loads and asks its file first
_SEED = 0
_SHOWN = 300  # characters of a wrong answer
_CANDIDATE_TAG = "candidate"
_LEFT_OVER_SECONDS = 3 * 3600.0  # a candidate at work is asked eight golden prompts of up to 600 s each


class DeviceReport(BaseModel):
    """What a device runs after a package was deployed to it; ``gguf_sha256`` is what the device tells."""

    model_config = ConfigDict(frozen=True)

    device: str
    name: str
    ollama_version: str
    gguf_sha256: str
    golden_passed: int
    golden_total: int
    tokens_per_second: float | None
    seconds: float


class FileRewritten(GateBlocked):
    """The device made its model of another file than the one that was sent."""


def deploy_package(package: Package, *, name: str, locks: Path, host: str | None = None) -> DeviceReport:
    """Make ``name`` on the Ollama at ``host`` (else OLLAMA_HOST, else this machine) answer with the package.

    ``locks`` is a folder: one deploy at a time works on a device, the next one waits for it.

    Raises:
        ServiceUnavailable: no Ollama answers there, or another deploy is at work for half an hour.
        UsageError: the device refuses the package.
        FileRewritten: the device's file has another digest.
        GateBlocked: a golden answer comes back different, or the device tells another digest after the switch.

    ``name`` answers as before then, but where the digest after the switch is another one or cannot be read, which the
    error says, or where the device goes out of reach while it switches.
    """
    started = time.monotonic()
    device = OllamaClient(host, timeout=_ANSWER_SECONDS)
    version = device.version()
    candidate = f"{name}:{_CANDIDATE_TAG}-{secrets.token_hex(4)}"
    with _alone(device, locks):
        _delete_leftovers(device, name)
        if device.upload(package.gguf, package.gguf_sha256):
            logger.info("sent %s to %s", package.gguf.name, device.address)
        try:
            device.create(candidate, package.gguf.name, package.gguf_sha256, package.modelfile)
            digest = device.gguf_sha256(candidate)
            if digest != package.gguf_sha256:
                raise FileRewritten(f"{device.address} made {candidate} from {digest}, not from {package.gguf_sha256}.")
            passed, tokens_per_second = _ask(device, candidate, package.golden)
            device.copy(candidate, f"{name}:latest")
        finally:
            _delete(device, candidate)
        digest = _digest_after_switch(device, name)
    if digest != package.gguf_sha256:
        raise GateBlocked(
            f"{device.address} runs {digest} as {name} after the switch, not {package.gguf_sha256}; another deploy "
            "came between. Deploy again, from one place."
        )
    return DeviceReport(
        device=device.address,
        name=name,
        ollama_version=version,
        gguf_sha256=digest,
        golden_passed=passed,
        golden_total=len(package.golden),
        tokens_per_second=tokens_per_second,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _alone(device: OllamaClient, locks: Path) -> Iterator[None]:
    locks.mkdir(parents=True, exist_ok=True)
    file = locks / f"{hashlib.sha256(device.url.encode()).hexdigest()[:16]}.lock"
    try:
        with FileLock(file, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ServiceUnavailable(
            f"Another deploy is at work on {device.address} for {_LOCK_SECONDS / 60:.0f} minutes; end it and try again."
        ) from error


def _delete_leftovers(device: OllamaClient, name: str) -> None:
    """Forget the candidates of deploys that were killed; younger ones may be another machine's at work."""
    for model, age in device.models().items():
        if model.startswith(f"{name}:{_CANDIDATE_TAG}") and (age is None or age > _LEFT_OVER_SECONDS):
            _delete(device, model)


def _ask(device: OllamaClient, name: str, golden: tuple[Golden, ...]) -> tuple[int, float | None]:
    """How many golden answers were right, and tokens a second. Raises GateBlocked for a wrong one."""
    wrong: list[tuple[Golden, str]] = []
    tokens, nanoseconds = 0, 0
    for item in golden:
        try:
            reply = device.generate(name, item.command, {"seed": _SEED})
        except NoAnswer as error:
            wrong.append((item, str(error)))
            continue
        tokens += reply.eval_count or 0
        nanoseconds += reply.eval_duration or 0
        answer = reply.response or ""
        if not same_answer(answer, item.answer):
            wrong.append((item, answer))
    if wrong:
        item, answer = wrong[0]
        raise GateBlocked(
            f"{device.address} answered {len(wrong)} of {len(golden)} golden prompts differently and keeps "
            f"its model: {item.command!r} should give {item.answer}, gave "
            f"{answer.strip()[:_SHOWN] or 'nothing'}"
        )
    return len(golden), tokens / nanoseconds * 1e9 if nanoseconds else None


def _digest_after_switch(device: OllamaClient, name: str) -> str:
    try:
        return device.gguf_sha256(f"{name}:latest")
    except (ServiceUnavailable, UsageError) as error:
        raise type(error)(f"{device.address} was switched over, but its digest could not be read: {error}") from error


def _delete(device: OllamaClient, name: str) -> None:
    """Forget ``name``, if the device knows it and can be reached."""
    try:
        device.delete(name)
    except UsageError:
        logger.debug("%s has no %s to delete", device.address, name)
    except ServiceUnavailable as error:
        logger.warning("%s stays on the device: %s", name, error)
