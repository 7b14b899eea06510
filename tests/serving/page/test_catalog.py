import numpy as np
import pyarrow as pa
import pytest

from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.serving.page.cards import facts_html, image_html
from tiger.serving.page.catalog import PageCatalog, image_url, price_text

URL = "https://shop.example/a.png?w=1&h=2"


def catalog(show_images=True, **columns):
    tokenizer = SemanticIdTokenizer(np.array([[0, 1], [1, 0]]), ["a", "b"], codebook_size=2)
    return PageCatalog(tokenizer, pa.table({"item_id": ["a", "b"], **columns}), show_images)


@pytest.mark.parametrize(
    ("value", "text"),
    [(19.9, "19.90"), (1234, "1,234.00"), ("$9.99", "$9.99"), (None, ""), (float("nan"), ""), (float("inf"), "")]
    + [(True, ""), ("x" * 50, "x" * 40)],
)
def test_prices(value, text):
    assert price_text(value) == text


def test_a_price_is_shown_where_the_table_has_one():
    shown = catalog(price=[19.9, None], brand=["<b>", "B"])
    assert facts_html(shown, 0) == '<div class="quiet">&lt;b&gt; · price 19.90</div>'
    assert facts_html(shown, 1) == '<div class="quiet">B</div>' and catalog().price(0) == ""


@pytest.mark.parametrize("good", [URL, "http://localhost:8000/x", ["ftp://x/y", URL]])
def test_addresses_of_images(good):
    assert image_url(good) in (good, URL)


@pytest.mark.parametrize(
    "bad",
    ["javascript:alert(1)", "data:image/png;base64,AA", "//shop.example/a.png", "/etc/passwd", "https://", "http://["]
    + [
        "https://u:p@x/a.png",
        "https://x/a b.png",
        "https://x/\n",
        "https://x/" + "a" * 2000,
        "",
        None,
        3,
        [],
        {"a": 1},
    ],
)
def test_what_is_no_address_of_an_image_is_not_shown(bad):
    assert image_url(bad) == ""


def test_images_are_shown_only_if_asked_for():
    table = {"image_url": [URL, 'https://x/"><script>'], "title": ['A "tent"', "B"]}
    shown = catalog(**table)
    html = image_html(shown, 0)
    assert 'src="https://shop.example/a.png?w=1&amp;h=2" alt="Image of A &quot;tent&quot;" width="64"' in html
    assert 'loading="lazy"' in html and 'referrerpolicy="no-referrer"' in html and 'height="64"' in html
    assert "<script>" not in image_html(shown, 1)
    assert image_html(catalog(show_images=False, **table), 0) == "" == image_html(catalog(), 0)
    assert URL in image_html(catalog(images=[[URL], []]), 0).replace("&amp;", "&")
