"""Addresses are shown without their passwords, wherever in a text they stand."""

import pytest

from registry.errors import GemmillError
from registry.urls import is_this_machine, masked

_SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        (f"http://bob:{_SECRET}@mlflow:5000/", "http://bob:***@mlflow:5000/"),
        (f"HTTPS://bob:{_SECRET}@[::1]:5000", "HTTPS://bob:***@[::1]:5000"),
        (f"http://bob:p@{_SECRET}:x@mlflow", "http://bob:***@mlflow"),
        (f"http://:{_SECRET}@mlflow", "http://:***@mlflow"),
        (f"https://{_SECRET}@mlflow", "https://***@mlflow"),
        (f"https://{_SECRET}%40@mlflow", "https://***@mlflow"),
        (f"postgresql+psycopg://bob:a/b@{_SECRET}?#@db/audit", "postgresql+psycopg://bob:***@db/audit"),
        (
            f"postgresql:///audit?host=db&user=bob&password={_SECRET}",
            "postgresql:///audit?host=db&user=bob&password=***",
        ),
        (f"mysql://db/audit?ssl_key_password={_SECRET}&ssl=1", "mysql://db/audit?ssl_key_password=***&ssl=1"),
        (f"mssql+pyodbc:///?odbc_connect=PWD%3D{_SECRET}", "mssql+pyodbc:///?odbc_connect=***"),
        (f"http://gateway/v1?api_key={_SECRET}#top", "http://gateway/v1?api_key=***#top"),
        (f"bob:{_SECRET}@plant-7:11434", "bob:***@plant-7:11434"),
        (f"http://bob:p#{_SECRET}@dev:11434", "http://bob:***@dev:11434"),
        (f"http://bob:p/{_SECRET}@dev", "http://bob:***@dev"),
        (f"http://bob:7{_SECRET}/@dev", "http://bob:***@dev"),
        (f"https://bob:p?{_SECRET}@h/", "https://bob:***@h/"),
        (f"http://bob:it's{_SECRET}@dev", "http://bob:***@dev"),
        (f"http://o'brien:{_SECRET}@dev", "http://o'brien:***@dev"),
        (f"postgresql://bob:it's{_SECRET}@h/db", "postgresql://bob:***@h/db"),
        (f"postgresql://bob:a<{_SECRET}@h/db", "postgresql://bob:***@h/db"),
        (f"postgresql://bob:7/{_SECRET}@h/db", "postgresql://bob:***@h/db"),
        (f"http://gateway/v1?token=it's{_SECRET}", "http://gateway/v1?token=***"),
    ],
)
def test_the_password_of_an_address_is_hidden(shown: str, hidden: str) -> None:
    assert masked(shown) == hidden
    sentence = f"'{hidden}' is out of reach; see \"{hidden}\"."
    if "://" in shown:
        assert masked(f"'{shown}' is out of reach; see \"{shown}\".") == sentence
    assert masked(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "http://mlflow:5000/models/x@champion",
        "http://[::1]:5000/models/x@champion",
        "http://[::1]/models/x@champion",
        "http://mlflow/models:/x@champion",
        "http://mlflow:5000?model=x@champion",
        "sqlite:////plant/audit.db",
        "postgresql://bob@db/audit?sslmode=require",
        "models:/gemma3-manufacturing@champion",
        "http://127.0.0.1:11434 answers; mail bob@plant.example",
        "two addresses: http://a:80, http://b:80?page=2&tokens",
        "Log 4.2 bar: ask bob@plant at 12:30.",
        "C:\\plant\\audit.db",
        "",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_an_expected_error_never_holds_a_password() -> None:
    error = GemmillError(f"No server answers at http://bob:{_SECRET}@plant:80.")
    assert str(error) == "No server answers at http://bob:***@plant:80."
    assert _SECRET not in repr(error)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        (None, True), ("", True), ("localhost", True), ("LOCALHOST.", True), ("ollama.localhost", True),
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", True),  # noqa: S104
        ("10.0.0.7", False), ("edge-7", False), ("localhost.example.com", False), ("127.0.0.1.example.com", False),
    ],
)  # fmt: skip
def test_a_host_of_this_machine_is_known(host: str | None, local: bool) -> None:
    assert is_this_machine(host) is local
