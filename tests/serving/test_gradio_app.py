import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.cli.main import main

pytest.importorskip("gradio", reason="needs the extra: pip install 'tiger-recommender[app]'")

import httpx2  # noqa: E402

from tests.serving.page.test_cards import HOSTILE  # noqa: E402
from tiger.recommender.recommender import TigerRecommender  # noqa: E402
from tiger.serving import gradio_app as app  # noqa: E402


def test_command_line(recommender, tmp_path, capsys, monkeypatch):  # noqa: F811
    recommender.save_pretrained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        main(["app", str(tmp_path / "model"), "--port", str(taken.getsockname()[1])])
    assert stop.value.code == 2 and "can't listen" in capsys.readouterr().err


def event(client, page, data):
    """What the page's script does when *Recommend* is clicked: the answer's HTML."""
    (button,) = [one["id"] for one in page["components"] if one["props"].get("elem_id") == "go"]
    (number,) = [one["id"] for one in page["dependencies"] if [button, "click"] in map(list, one["targets"])]
    sent = {"data": data, "fn_index": number, "session_hash": "session", "trigger_id": None, "event_data": None}
    assert client.post("/gradio_api/queue/join", json=sent).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data?session_hash=session") as lines:
        (done,) = [json.loads(line[6:]) for line in lines.iter_lines() if '"process_completed"' in line]
    return done["output"]["data"][0]


def test_the_page_works_and_takes_no_uploads_nor_calls_by_programs(recommender, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    seen = []

    def check(page):
        with httpx2.Client(base_url=page.local_url, timeout=30) as client:
            config = client.get("/config").json()
            for path in ("/", "/theme.css", "/gradio_api/app_id"):
                assert client.get(path).status_code == 200
            policy = client.get("/").headers["content-security-policy"]
            assert "default-src 'self';" in policy and "img-src 'self' data: blob:;" in policy
            html = event(client, config, [["i1", "i2"], 5, 40, 0, True, False, ""])
            assert html.count("<li>") == 5
            # For programs: no endpoint has a name, and none of them answers.
            assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
            refused = [
                client.post("/gradio_api/upload", files={"files": ("x.bin", b"x" * 100_000)}),
                client.post("/gradio_api/upload/", files={"files": ("x.bin", b"x")}),
                *(client.post(f"/gradio_api/{how}/recommend", json={"data": []}) for how in ("run", "api", "call")),
                *(
                    client.get(f"/gradio_api/{path}")
                    for path in ("openapi.json", "file=/etc/passwd", "proxy=http://x")
                ),
                *(client.get(path) for path in ("/monitoring", "/openapi.json", "/docs")),
                client.put("/gradio_api/queue/join", json={}),
                client.post("/gradio_api/component_server", json={}),
            ]
            assert [answer.status_code for answer in refused] == [404] * len(refused)
            long = client.post("/gradio_api/queue/join", content=b" " * (2**20 + 1))
            unsaid = client.post("/gradio_api/queue/join", content=iter([b"{}"]))
            assert long.status_code == unsaid.status_code == 413 and "at most" in unsaid.json()["error"]
        seen.append(list(tmp_path.rglob("x.bin")))
        page.close(verbose=False)

    monkeypatch.setattr("gradio.Blocks.block_thread", check)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app.launch(recommender, port=port)
    assert seen == [[]]


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium, which is not on the path")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(recommender, tmp_path):  # noqa: F811
    """Of the page, in a process of its own, as the command line starts it."""
    dense = recommender.encoder.encode(recommender.items["title"].to_pylist())
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    titles = recommender.items["title"].to_pylist()
    titles[5] = HOSTILE
    pictures = pa.array(["https://pictures.invalid/a.png"] * 40)
    table = recommender.items.set_column(1, "title", pa.array(titles))
    recommender.items = table.append_column("price", pa.array([9.5] * 40)).append_column("image", pictures)
    recommender.save_pretrained(tmp_path / "model")
    with running(tmp_path / "model") as found:
        yield found


@contextmanager
def running(model, *options):
    """The address of a model's page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tiger.cli", "app", str(model), "--port", str(port), *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert re.match(r"\d+ items on http://127.0.0.1:", process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_in_a_browser(browser, address, tmp_path):
    for width, height in ((1280, 900), (390, 844)):
        use_the_page(browser, address, width, height, tmp_path)


def use_the_page(browser, address, width, height, tmp_path):
    """Search, choose, recommend, compare, browse; nothing may stick out, run or be asked of elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    box = page.locator("#query textarea, #query input").first
    # Search, choose two, one of them with a text that would like to be code, by the keyboard alone.
    for query, expected in (("lamp number 1", "lamp"), ("onerror", "<img src=x")):
        box.press_sequentially(query)
        page.locator("#found button", has_text=expected).first.wait_for()
        box.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#chosen", has_text=expected).wait_for()
        page.locator("#found button").first.wait_for(state="detached")
        page.wait_for_function("document.activeElement.matches('#query textarea, #query input')")
    page.locator("#go").click()
    page.locator("#answers li").nth(9).wait_for()
    assert page.locator("#answers li").count() == 10 and "price 9.50" in page.locator("#answers").inner_text()
    assert "10 recommendations after a history of 2 items." in page.locator("#status [role=status]").inner_text()
    page.locator("#answers summary").first.click()
    assert "Ranker, score" in page.locator("#answers dl").first.inner_text()
    # Without the ranker the scores are the T5's.
    page.get_by_text("Settings").click()
    page.locator("#rank input").uncheck()
    page.locator("#go").click()
    page.locator("#answers dl", has_not_text="Ranker").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # An answer joins the history, and there are new answers; the focus isn't lost.
    added = page.locator("#answers li").nth(1)
    title = added.locator(".name").inner_text()
    added.locator("button").focus()
    page.keyboard.press("Enter")
    page.locator("#status", has_text="after a history of 3 items").wait_for()
    page.locator(f"#answers .name:text-is('{title}')").wait_for(state="detached")
    assert title in page.locator("#chosen").inner_text()
    page.wait_for_function("document.activeElement.closest('#answer, #chosen') !== null")
    page.screenshot(path=tmp_path / f"answers-{width}.png", full_page=True)
    # The address opens the same page again, and the map marks what it shows.
    page.wait_for_function("window.location.search.split('item=').length === 4")
    shown, other = page.locator("#answers .name").all_inner_texts(), browser.new_page()
    other.set_default_timeout(60_000)
    other.goto(page.url)
    other.locator("#answers li").nth(9).wait_for()
    assert other.locator("#answers .name").all_inner_texts() == shown
    other.get_by_text("Settings").click()
    assert not other.locator("#rank input").is_checked()
    other.close()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#comparison li").nth(19).wait_for()
    page.get_by_role("tab", name="Map").click()
    page.locator("#map .mark").nth(12).focus()
    assert page.locator("#map .caption").inner_text().startswith("answer 10: ")
    # The tree: the first code, then the second.
    page.get_by_role("tab", name="Tree of codes").click()
    for level in (1, 2):
        page.locator(f"#code-{level} input").click()
        option = page.locator(f"#code-{level} [role=option], ul.options li").first
        code = option.inner_text().strip().lstrip("✓ ").split(":")[0]
        option.click()
        page.locator("#branch h2", has_text=f"({code}, *)" if level == 1 else f", {code})").wait_for()
    assert page.locator("#branch .code.shared").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"tree-{width}.png", full_page=True)
    assert page.evaluate("window.hit") is None and wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


def axe_script() -> str:
    """The text of axe-core, from the environment's path or an installed package."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named).read_text()
    found = importlib.util.find_spec("axe_playwright_python")
    files = [] if found is None else [Path(folder) / "axe.min.js" for folder in found.submodule_search_locations]
    for file in files:
        if file.exists():
            return file.read_text()
    pytest.skip("needs axe-core: axe-playwright-python, of the extra dev, or axe.min.js at $AXE_CORE")


def test_axe_finds_no_serious_fault(browser):
    """On every tab, wide and narrow, light and dark, with answers and their numbers open."""
    axe = axe_script()
    with running("demo") as address:
        found = {}
        for width, height in ((1280, 900), (390, 844)):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.set_default_timeout(60_000)
                page.goto(address)
                page.locator("#starters button").last.click()
                page.locator("#answers li").nth(9).wait_for()
                page.locator("#answers summary").first.click()
                page.get_by_text("Settings").click()
                page.locator("#query textarea, #query input").first.press_sequentially("classic")
                page.locator("#found button").first.wait_for()
                for tab, ready in (
                    ("Recommend", "#answers li"),
                    ("Compare", "#comparison li"),
                    ("Map", "#map .mark"),
                    ("Tree of codes", "#branch li"),
                ):
                    page.get_by_role("tab", name=tab).click()
                    page.locator(ready).first.wait_for()
                    page.wait_for_timeout(300)  # colors fade in
                    page.evaluate(axe)
                    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                    found[width, scheme, tab] = [
                        (one["impact"], one["id"], [node["html"][:200] for node in one["nodes"]])
                        for one in result["violations"]
                        if one["impact"] in ("serious", "critical")
                    ]
                page.close()
    assert len(found) == 16 and {view: faults for view, faults in found.items() if faults} == {}


def test_images_are_asked_for_if_they_are_switched_on(browser, tmp_path):
    """From where the table says; that none is without the option, the page of ``address`` shows."""
    tiger = TigerRecommender.from_pretrained("demo")
    tiger.items = tiger.items.append_column(
        "image", pa.array(["https://pictures.invalid/a.png"] * len(tiger.tokenizer))
    )
    tiger.save_pretrained(tmp_path / "model")
    with running(tmp_path / "model", "--images") as address:
        page, asked = browser.new_page(), []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/?k=3&item={tiger.tokenizer.item_ids[0]}")
        page.locator("#answers li").nth(2).wait_for()
        picture = page.locator("#answers img").first
        picture.scroll_into_view_if_needed()
        assert picture.get_attribute("referrerpolicy") == "no-referrer" and page.locator("#answers img").count() == 3
        assert {url for url in asked if not url.startswith(address)} == {"https://pictures.invalid/a.png"}
        page.close()
