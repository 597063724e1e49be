"""A package on a device that runs Ollama: upload, create, try, and only then switch over.

Devices ask for ``NAME:latest``. A new package is created as ``NAME:candidate`` and must give its golden
answers there before it takes the other name; a device keeps the model that works until another one does.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import ollama
from pydantic import BaseModel, ConfigDict

from data_checks.contract import parse_answer
from deployment.package import Golden, Package
from registry.errors import GateBlocked, ServiceUnavailable, UsageError

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 600.0  # a slow device loads a model from a slow disk before its first answer
_SEED = 0
_SHOWN = 300  # characters of a wrong answer
_CANDIDATE_TAG = "candidate"
_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)


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


def deploy_package(package: Package, *, name: str, host: str | None = None) -> DeviceReport:
    """Make ``name`` on the Ollama at ``host`` (else OLLAMA_HOST, else this machine) answer with the package.

    Raises ServiceUnavailable where no Ollama answers, UsageError where it refuses the package, GateBlocked
    where a golden answer comes back different; ``name`` answers as before then.
    """
    started = time.monotonic()
    device = _Device(host)
    version = device.version()
    device.upload(package)
    candidate = f"{name}:{_CANDIDATE_TAG}"
    try:
        device.create(candidate, package)
        digest = device.gguf_sha256(candidate)
        if digest != package.gguf_sha256:
            raise GateBlocked(f"{device.address} made {candidate} from {digest}, not from {package.gguf_sha256}.")
        passed, tokens_per_second = device.ask(candidate, package.golden)
        device.copy(candidate, f"{name}:latest")
    finally:
        device.delete(candidate)
    return DeviceReport(
        device=device.address,
        name=name,
        ollama_version=version,
        gguf_sha256=device.gguf_sha256(name),
        golden_passed=passed,
        golden_total=len(package.golden),
        tokens_per_second=tokens_per_second,
        seconds=time.monotonic() - started,
    )


class _Device:
    """One Ollama server; whatever goes wrong with it is raised as an error of one sentence that names it."""

    def __init__(self, host: str | None) -> None:
        try:
            timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
            self._client = ollama.Client(host=host, timeout=timeout)
        except (ValueError, httpx.InvalidURL) as error:
            raise UsageError(f"{host!r} is not the address of an Ollama server: {error}.") from error
        self.address = str(self._client._client.base_url).rstrip("/")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, httpx.TransportError) as error:
            raise ServiceUnavailable(
                f"No Ollama answers at {self.address}; start `ollama serve` there, or name another device "
                "with --device URL."
            ) from error
        except ollama.ResponseError as error:
            kind = ServiceUnavailable if error.status_code >= 500 else UsageError
            raise kind(f"Ollama at {self.address} says: {error.error.strip().rstrip('.')}.") from error

    def version(self) -> str:
        with self._errors():
            return self._client._request_raw("GET", "/api/version").json()["version"]

    def upload(self, package: Package) -> None:
        """Send the GGUF unless the device has it."""
        with self._errors():
            try:
                self._client._request_raw("HEAD", f"/api/blobs/sha256:{package.gguf_sha256}")
            except ollama.ResponseError as error:
                if error.status_code != httpx.codes.NOT_FOUND:
                    raise
                logger.info("sending %s to %s", package.gguf.name, self.address)
                self._client.create_blob(package.gguf)

    def create(self, name: str, package: Package) -> None:
        modelfile = package.modelfile
        with self._errors():
            self._client.create(
                name,
                files={package.gguf.name: f"sha256:{package.gguf_sha256}"},
                template=modelfile.template,
                system=modelfile.system or None,
                parameters={
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in modelfile.parameters.items()
                },
                license=modelfile.licence,
            )

    def gguf_sha256(self, name: str) -> str:
        """The digest of the file behind ``name``, as the device tells it."""
        with self._errors():
            told = self._client.show(name).modelfile or ""
        found = _BLOB.search(told)
        if found is None:
            raise UsageError(f"Ollama at {self.address} does not tell the digest of {name}; is it a proxy?")
        return found[1]

    def ask(self, name: str, golden: tuple[Golden, ...]) -> tuple[int, float | None]:
        """How many golden answers were right, and tokens a second. Raises GateBlocked for a wrong one."""
        wrong: list[tuple[Golden, str]] = []
        tokens, nanoseconds = 0, 0
        for item in golden:
            with self._errors():
                reply = self._client.generate(name, prompt=item.command, options={"seed": _SEED})
            tokens += reply.eval_count or 0
            nanoseconds += reply.eval_duration or 0
            answer = reply.response or ""
            if not _same_answer(answer, item.answer):
                wrong.append((item, answer))
        if wrong:
            item, answer = wrong[0]
            raise GateBlocked(
                f"{self.address} answered {len(wrong)} of {len(golden)} golden prompts differently and keeps "
                f"its model: {item.command!r} should give {item.answer}, gave "
                f"{answer.strip()[:_SHOWN] or 'nothing'}"
            )
        return len(golden), tokens / nanoseconds * 1e9 if nanoseconds else None

    def copy(self, name: str, to: str) -> None:
        with self._errors():
            self._client.copy(name, to)

    def delete(self, name: str) -> None:
        """Forget ``name``, if the device knows it and can be reached."""
        try:
            with self._errors():
                self._client.delete(name)
        except UsageError:
            logger.debug("%s has no %s to delete", self.address, name)
        except ServiceUnavailable as error:
            logger.warning("%s stays on the device: %s", name, error)


def _same_answer(answer: str, expected: str) -> bool:
    """Whether two answers say the same; white space in JSON says nothing."""
    wanted = parse_answer(expected)
    return answer.strip() == expected.strip() if wanted is None else parse_answer(answer) == wanted
