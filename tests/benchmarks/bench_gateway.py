"""What the gateway costs: answers through it beside the same llama.cpp server asked directly for the same.

    python -m tests.benchmarks.bench_gateway FILE.gguf [--data FILE.jsonl] [--labels FILE.toml] [--rows 20]
                                             [--clients 32] [--seconds 10] [--rounds 3] [--parallel 4] [--threads 0]

The clients are a process of their own. `direct` sends llama.cpp the tokens and the grammar that the gateway would, made
beforehand; `gateway` sends the command. p50 and p95 are of one client that asks each command in turn by both ways,
answers/s of all clients at once, in turns of `--seconds`. Memory is the gateway's own process, without llama.cpp's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.answers.assistant import Assistant
from deployment.gateway.app import gateway_app
from deployment.gateway.backend import Source
from deployment.gateway.server import address_of, listening_socket, server_of
from deployment.gateway.settings import GatewaySettings
from registry.cores import usable_cores
from tests.benchmarks.child import resident_gib

_MIB = 1024  # in a GiB
_TIMEOUT = 600.0  # seconds; all clients wait for a few slots
_POLL = 0.05


class Way:
    """One address with the bodies that ask it the commands."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.name, self._route = told["name"], told["route"]
        self._netloc = urlsplit(told["address"]).netloc
        self.bodies = [json.dumps(body).encode() for body in told["bodies"]]

    def connection(self) -> HTTPConnection:
        return HTTPConnection(self._netloc, timeout=_TIMEOUT)

    def ask(self, connection: HTTPConnection, body: bytes) -> float:
        """The seconds of one answer. Raises RuntimeError for anything but a 200."""
        connection.close()  # llama.cpp ends one that was idle while the other way was asked
        connection.connect()
        started = time.perf_counter()
        connection.request("POST", self._route, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"{self.name} answers {response.status}: {content[:200]!r}")
        return time.perf_counter() - started


def one_client(ways: list[Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of every answer by each way, command by command in turn."""
    connections = [way.connection() for way in ways]
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds + 1):
        for place in range(len(ways[0].bodies)):
            for way, connection in zip(ways, connections, strict=True):
                took = way.ask(connection, way.bodies[place])
                if number:  # the first round warms up
                    seconds[way.name].append(took)
    return seconds


def all_clients(way: Way, clients: int, seconds: float) -> float:
    """Answers a second while ``clients`` ask at once."""
    until, done = time.perf_counter() + seconds, [0] * clients

    def ask(client: int) -> None:
        connection = way.connection()
        while time.perf_counter() < until:
            way.ask(connection, way.bodies[(client + done[client]) % len(way.bodies)])
            done[client] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def client_process(plan: Mapping[str, Any]) -> None:
    """Measure as ``plan`` says and print the figures."""
    ways = [Way(told) for told in plan["ways"]]
    latencies = one_client(ways, plan["rounds"])
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(plan["rounds"]):
        for way in ways:
            rates[way.name].append(all_clients(way, plan["clients"], plan["seconds"]))
    print(json.dumps({"latencies": latencies, "rates": rates}))


@contextmanager
def serving(assistant: Assistant, options: argparse.Namespace) -> Iterator[str]:
    """The address of a gateway of this process before ``assistant``."""
    settings = GatewaySettings(
        feedback=Path(tempfile.gettempdir()) / "feedback.jsonl", parallel=options.parallel,
        queue=2 * options.clients, timeout=_TIMEOUT,
    )  # fmt: skip
    server = server_of(gateway_app(Source(name="measured", open=lambda: assistant), settings))
    with listening_socket("127.0.0.1", 0) as served:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [served]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(_POLL)
        yield address_of(served)
        server.should_exit = True
        thread.join()


def direct_way(assistant: Assistant, commands: list[str]) -> dict[str, Any]:
    """llama.cpp's address with what the gateway would send it."""
    llama: Any = assistant._runtime
    bodies = [llama._asked(command, llama.tokenize_prompt(command)) for command in commands]
    return {"name": "direct", "address": llama.process.address, "route": "/completion", "bodies": bodies}


def table(figures: Mapping[str, Any], title: str, memory: tuple[float, float]) -> Table:
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("asked", "p50, ms", "p95, ms", "answers/s", "×", "MiB before", "MiB after"):
        found.add_column(column, justify="left" if column == "asked" else "right")
    first = median(figures["rates"]["direct"])
    for name, seconds in figures["latencies"].items():
        rate = median(figures["rates"][name])
        shown = [f"{mib:.0f}" for mib in memory] if name == "gateway" else ["", ""]
        found.add_row(
            name,
            f"{1000 * median(seconds):.1f}",
            f"{1000 * quantiles(seconds, n=20)[-1]:.1f}",
            f"{rate:.1f}",
            f"{rate / first:.2f}",
            *shown,
        )
    return found


def main(options: argparse.Namespace) -> None:
    records, _ = read_jsonl(options.data)
    commands = [record.command for record in records[: options.rows]]
    assistant = Assistant(
        options.file, labels=options.labels, parallel=options.parallel, threads=options.threads or usable_cores()
    )
    with serving(assistant, options) as address, tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        bodies = [{"command": command} for command in commands]
        ways = [
            direct_way(assistant, commands),
            {"name": "gateway", "address": address, "route": "/v1/audit", "bodies": bodies},
        ]
        asked = {"ways": ways, "clients": options.clients, "seconds": options.seconds, "rounds": options.rounds}
        json.dump(asked, plan)
        plan.flush()
        before = resident_gib() * _MIB
        ran = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_gateway", "--client", plan.name],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        memory = before, resident_gib() * _MIB
    figures = json.loads(ran.stdout)
    pairs = zip(figures["latencies"]["gateway"], figures["latencies"]["direct"], strict=True)
    title = (
        f"{Path(options.file).name}, {len(commands)} commands, {options.rounds} rounds, {options.clients} clients at "
        f"once; the gateway takes {1000 * median(through - direct for through, direct in pairs):.1f} ms of an answer"
    )
    Console(width=100).print(table(figures, title, memory))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", metavar="FILE.gguf")
    parser.add_argument("--data", type=Path, default=SAMPLE_DIR / "test.jsonl")
    parser.add_argument("--labels", type=Path, default=SAMPLE_DIR / "labels.toml")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client_process(json.loads(given.client.read_text()))
    elif given.file:
        main(given)
    else:
        parser.error("FILE.gguf is missing; name the file to serve")
