import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pyarrow as pa
import pytest

from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.cli.main import main

pytest.importorskip("gradio", reason="needs the extra: pip install 'tiger-recommender[app]'")

import httpx2  # noqa: E402

from tiger.semantic_ids.code_tree import CodeTree  # noqa: E402
from tiger.serving import gradio_app as app  # noqa: E402

HOSTILE = "<img src=x onerror=\"window.hit=1\"> ${window.hit=1} {{hit}} tent & 'rope'"


def tree_of(recommender, **columns):  # noqa: F811
    table = recommender.items
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, pa.array(values))
    return CodeTree(recommender.tokenizer, table)


def test_answers_show_the_prefix_that_they_share(recommender):  # noqa: F811
    tree = tree_of(recommender)
    ids = tree.semantic_ids
    same = next(row for row in range(1, 40) if ids[row, 0] == ids[0, 0] and ids[row, 1] != ids[0, 1])
    other = next(row for row in range(1, 40) if ids[row, 0] != ids[0, 0])
    html = app.answer_html(tree, [same, other], ["-1.00", "-2.00"], [0])
    first, second = re.findall(r"<li>.*?</li>", html)
    assert first.count("code shared") == 1 and f">{ids[same, 0]}</span>" in first and tree.titles[0] in first
    assert "code shared" not in second and "-2.00" in second and '<span class="place">2<' in second
    assert "nothing left" in app.answer_html(tree, [], [], [0])


def test_texts_are_escaped(recommender):  # noqa: F811
    tree = tree_of(recommender, title=[HOSTILE] * 40, brand=[HOSTILE] * 40, categories=[HOSTILE] * 20 + [""] * 20)
    prefix = [int(tree.codes[0, 0])]
    for html in (app.answer_html(tree, [1], ["1"], [0]), app.history_html(tree, [0]), app.branch_html(tree, prefix)):
        assert "<img" not in html and "&lt;img" in html


def test_a_branch_says_what_it_holds(recommender):  # noqa: F811
    tree = tree_of(recommender)
    code, count = tree.children([])[0]
    html = app.branch_html(tree, [code])
    assert f"({code}, *): {count} of 40 items" in html and html.count("code shared") == min(count, 8)
    label, value = app.branch_choices(tree, [])[0]
    assert value == code and label.startswith(f"{code}: {count} items, ")


def test_command_line(recommender, tmp_path, capsys, monkeypatch):  # noqa: F811
    recommender.save_pretrained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        main(["app", str(tmp_path / "model"), "--port", str(taken.getsockname()[1])])
    assert stop.value.code == 2 and "can't listen" in capsys.readouterr().err


def event(client, page, data):
    """What the page's script does when *Recommend* is clicked: the answer's HTML."""
    (number,) = [one["id"] for one in page["dependencies"] if "click" in str(one["targets"])]
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
            html = event(client, config, [["i1", "i2"], 5, 40, 0, True, False])
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
    recommender.items = recommender.items.set_column(1, "title", pa.array(titles))
    recommender.save_pretrained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tiger.cli", "app", str(tmp_path / "model"), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline().startswith("40 items on http://127.0.0.1:")
    yield f"http://127.0.0.1:{port}"
    process.kill()


def test_in_a_browser(browser, address, tmp_path):
    for width, height in ((1280, 900), (390, 844)):
        use_the_page(browser, address, width, height, tmp_path)


def use_the_page(browser, address, width, height, tmp_path):
    """Search, choose, recommend, browse the tree; nothing may stick out, run or be asked of elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    # Search, choose two, one of them with a text that would like to be code.
    for query, expected in (("lamp number 1", "lamp"), ("onerror", "<img src=x")):
        page.locator("#query textarea, #query input").first.press_sequentially(query)
        page.locator("#found label", has_text=expected).first.click()
        page.locator("#chosen", has_text=expected).wait_for()
        page.locator("#found").wait_for(state="hidden")
    page.locator("#go").click()
    page.locator("#answers li").nth(9).wait_for()
    assert page.locator("#answers li").count() == 10 and "ranker" in page.locator("#answers .score").first.inner_text()
    # Without the ranker the scores are the T5's.
    page.get_by_text("Settings").click()
    page.locator("#rank input").uncheck()
    page.locator("#go").click()
    page.locator("#answers .score", has_text="log p").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"answers-{width}.png", full_page=True)
    # The tree: the first code, then the second.
    page.get_by_role("tab", name="Tree of codes").click()
    for level in (1, 2):
        page.locator(f"#code-{level} input").click()
        option = page.locator(f"#code-{level} [role=option], ul.options li").first
        code = option.inner_text().strip().lstrip("✓ ").split(":")[0]
        option.click()
        page.locator("#branch h3", has_text=f"({code}, *)" if level == 1 else f", {code})").wait_for()
    assert page.locator("#branch .code.shared").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"tree-{width}.png", full_page=True)
    assert page.evaluate("window.hit") is None and wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
