"""The page: nothing from elsewhere, nothing that runs by a model's words, and, in a browser, what it is for."""

import html
import json
import re
from pathlib import Path

import httpx
import pytest
from browser import Browser
from gateways import eventually, gateway, source_of

from deployment.gateway.page import rendered_page
from registry.records import LabelSet, Record


def test_the_page_fetches_nothing_and_runs_only_its_own_script(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    nonce = re.findall(r"'nonce-([\w-]+)'", policy)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert set(re.findall(r'<(?:script|style) nonce="([^"]+)"', response.text)) == set(nonce)
    assert not re.search(r"(?:src|href)=[\"'](?!data:,)", response.text)
    assert "http" not in re.sub(r"[\w.]*http[\w.]*equiv", "", response.text)
    assert "innerHTML" not in response.text
    assert client.get("/").headers["content-security-policy"] != policy


def test_names_of_a_plant_are_only_text_on_the_page() -> None:
    labels = LabelSet(name="plant", intents={'"><script>alert(1)</script>': ""}, entities={"<b>": ""})
    page = bytes(rendered_page("<i>model", labels, needs_key=True).body).decode()
    assert "<script>alert" not in page
    assert html.escape("<i>model") in page
    assert 'id="key"' in page


@pytest.mark.skipif(not Browser.is_installed(), reason="chromium or chromedriver is not installed")
def test_the_page_says_how_sure_an_answer_is(doubting: Path, tmp_path: Path, plant_records: list[Record]) -> None:
    with gateway(source_of(doubting), tmp_path) as client, Browser() as browser:
        browser.open(str(client.base_url))
        browser.type("#command", plant_records[0].command)
        browser.click("#ask button")
        eventually(lambda: "% sure" in browser.run("return document.getElementById('said').textContent"))
        assert browser.run("return document.querySelector('mark small').textContent").startswith("asset ")
        browser.type("#command", "x1 zz prüfe SG oil 99 tomorrow pumps leak")
        browser.click("#ask button")
        eventually(lambda: "Ask a person" in browser.run("return document.querySelector('.fault')?.textContent ?? ''"))
        assert not browser.complaints()


@pytest.mark.skipif(not Browser.is_installed(), reason="chromium or chromedriver is not installed")
def test_a_person_asks_and_corrects_in_a_browser(client: httpx.Client, home: Path, plant_records: list[Record]) -> None:
    with Browser() as browser:
        browser.open(str(client.base_url))
        browser.type("#command", plant_records[0].command)
        browser.click("#ask button")
        eventually(lambda: browser.run("return document.querySelectorAll('mark').length") == 1)
        assert browser.run("return document.getElementById('marked').textContent") == "Oil leak at SG-402asset."
        assert json.loads(browser.run("return document.getElementById('json').textContent"))["intent"] == "report_leak"
        browser.type("#intent", "check_asset")
        browser.click("#correct button:not([type])")
        eventually(lambda: "Kept" in browser.run("return document.getElementById('said').textContent"))
        browser.type("#command", " ")
        browser.click("#ask button")
        eventually(lambda: "blank" in browser.run("return document.querySelector('.fault')?.textContent ?? ''"))
        complaints = [said for said in browser.complaints() if "400 (Bad Request)" not in said]
    assert not complaints
    kept = json.loads((home / "feedback.jsonl").read_text().splitlines()[-1])
    assert (kept["answer"]["intent"], kept["response"]["intent"]) == ("report_leak", "check_asset")
    assert kept["response"]["entities"] == {"asset": "SG-402", "fluid": "oil"}
