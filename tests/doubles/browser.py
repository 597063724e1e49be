"""A headless Chromium, driven by chromedriver's own protocol (W3C WebDriver)."""

import re
import shutil
import subprocess
from types import TracebackType
from typing import Any, Self

import httpx

_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
_SECONDS = 60


class Browser:
    """A page for as long as the ``with`` block runs; both programs must be installed."""

    @staticmethod
    def is_installed() -> bool:
        return bool(shutil.which("chromium") and shutil.which("chromedriver"))

    def __enter__(self) -> Self:
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        said = iter(self._driver.stdout.readline, "")
        port = next(found[1] for line in said if (found := re.search(r"successfully on port (\d+)", line)))
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_SECONDS, trust_env=False)
        wanted = {"goog:chromeOptions": {"args": _ARGUMENTS}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = self._client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"][
            "sessionId"
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.delete(f"/session/{self._session}")
        self._client.close()
        self._driver.terminate()
        self._driver.communicate()

    def open(self, address: str) -> None:
        self._post("url", {"url": address})

    def resize(self, width: int) -> None:
        """Show pages as a screen of ``width`` pixels does, also where a window can be no narrower."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        self._post("goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": screen})

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in an input, as a person would."""
        element = self._element(selector)
        self._post(f"element/{element}/clear", {})
        self._post(f"element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        self._post(f"element/{self._element(selector)}/click", {})

    def run(self, script: str) -> Any:
        """What ``script`` returns in the page."""
        return self._post("execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """What the page's console was told, such as that its policy was broken."""
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]

    def _element(self, selector: str) -> str:
        found = self._post("element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(f"/session/{self._session}/{route}", json=body).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{route}: {answer['message']}")
        return answer
