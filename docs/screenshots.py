"""Take the pictures of the web page that the docs show.

    python docs/screenshots.py
    python docs/screenshots.py --model runs/demo/model --tabs compare    # after make demo: one with a second stage

Needs chromium, and playwright of the extra ``dev``.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZES = {1280: 900, 390: 844}
MAX_BYTES = 200_000
NARROW = ("recommend", "map")  # the tabs whose pictures at 390 pixels the docs show
# Names of pictures: a tab, and what there is once it has been computed.
TABS = {
    "recommend": ("Recommend", "#answers li"),
    "compare": ("Compare", "#comparison li"),
    "map": ("Map", "#map .mark"),
    "tree": ("Tree of codes", "#branch li"),
}


@contextmanager
def running_page(model: str) -> Iterator[str]:
    """The address of the page of a recommender, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tiger.cli", "app", model, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{' '.join(command)} has ended")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def prepare(page: Page, address: str) -> None:
    """Open the page with the last example history and its answers."""
    page.goto(address)
    examples = page.locator("#starters button[data-act=starter]")
    examples.first.wait_for()
    examples.last.click()
    page.locator("#answers li").first.wait_for()
    page.locator("#status .status", has_text="recommendations").wait_for()


def shrink(file: Path) -> None:
    """Reduce a picture to 128 colors, which its text and dots don't need more of."""
    with Image.open(file) as picture:
        reduced = picture.convert("RGB").quantize(128)
    reduced.save(file, optimize=True)
    if file.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes: more than {MAX_BYTES:,}")


def take(model: str, names: list[str]) -> None:
    """Write the pictures of these tabs, each under 200 kB."""
    IMAGES.mkdir(exist_ok=True)
    with running_page(model) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            page.set_default_timeout(120_000)
            prepare(page, address)
            for name in names if width > 600 else [name for name in names if name in NARROW]:
                tab, ready = TABS[name]
                page.get_by_role("tab", name=tab).click()
                page.locator(ready).first.wait_for()
                if name == "recommend" and width < 600:
                    page.locator("#answer").evaluate("element => element.scrollIntoView()")
                else:
                    page.evaluate("window.scrollTo(0, 0)")
                page.mouse.move(0, 0)
                page.wait_for_timeout(500)  # colors fade in
                file = IMAGES / f"page-{name}-{width}.png"
                page.screenshot(path=file)
                shrink(file)
            page.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take the pictures of the web page for the docs.")
    parser.add_argument("--model", default="demo", help="whose page (default: the one that comes with the library)")
    parser.add_argument("--tabs", nargs="+", choices=list(TABS), default=list(TABS), help="default: all")
    args = parser.parse_args()
    take(args.model, args.tabs)
