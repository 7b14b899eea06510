import re

import pyarrow as pa

from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.serving.page.branches import branch_choices, branch_html
from tiger.serving.page.cards import Answer, answer_html, history_html, meter_html, results_html
from tiger.serving.page.catalog import PageCatalog

HOSTILE = "<img src=x onerror=\"window.hit=1\"> ${window.hit=1} {{hit}} tent & 'rope'"


def catalog_of(recommender, **columns):  # noqa: F811
    table = recommender.items
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, pa.array(values))
    return PageCatalog(recommender.tokenizer, table)


def test_answers_show_the_prefix_that_they_share(recommender):  # noqa: F811
    catalog = catalog_of(recommender)
    ids = catalog.semantic_ids
    same = next(row for row in range(1, 40) if ids[row, 0] == ids[0, 0] and ids[row, 1] != ids[0, 1])
    other = next(row for row in range(1, 40) if ids[row, 0] != ids[0, 0])
    html = answer_html(catalog, [Answer(same, 1.0), Answer(other, 0.25)], [0])
    first, second = re.findall(r"<li>.*?</li>", html)
    assert first.count("code shared") == 1 and f">{ids[same, 0]}</span>" in first and catalog.titles[0] in first
    assert "code shared" not in second and '<span class="place">2<' in second and "because" not in second
    assert f'data-act="add" data-item="{catalog.item_ids[other]}"' in second
    assert "nothing left" in answer_html(catalog, [], [0])


def test_a_bar_in_place_of_a_number_and_the_numbers_behind_it(recommender):  # noqa: F811
    catalog = catalog_of(recommender)
    html = answer_html(catalog, [Answer(1, 0.254, (("T5, probability", "8.10%"),), because=3, how="By <X>.")], [2, 3])
    assert 'role="img" aria-label="Score, relative to the best answer&#x27;s: 25%"' in html and "width: 25%" in html
    assert f'title="By &lt;X&gt;.">because you viewed <b>{catalog.titles[3]}</b>' in html
    assert "<summary>Numbers" in html and "<dt>T5, probability</dt><dd>8.10%</dd>" in html
    assert f"as {catalog.titles[3]}" not in html  # named once
    assert "width: 100%" in meter_html(7.0, "x") and "width: 0%" in meter_html(-1, "x")


def test_texts_are_escaped(recommender):  # noqa: F811
    catalog = catalog_of(
        recommender, title=[HOSTILE] * 40, brand=[HOSTILE] * 40, categories=[HOSTILE] * 20 + [""] * 20
    )
    catalog.item_ids = [f'{HOSTILE}" data-act="clear' for _ in range(40)]
    answer = Answer(1, 1, ((HOSTILE, HOSTILE),), 0, HOSTILE)
    for html in (
        answer_html(catalog, [answer], [0]),
        history_html(catalog, [0]),
        results_html(catalog, [0], "tent"),
        branch_html(catalog, [int(catalog.codes[0, 0])]),
    ):
        assert "<img" not in html and "&lt;img" in html
        assert 'data-act="clear" data-item="&lt;' not in html and '" data-act="clear"' not in html.replace(
            'class="act" data-act="clear"', ""
        )


def test_a_branch_says_what_it_holds(recommender):  # noqa: F811
    catalog = catalog_of(recommender)
    code, count = catalog.children([])[0]
    html = branch_html(catalog, [code])
    assert f"({code}, *): {count} of 40 items" in html and html.count("code shared") == min(count, 8)
    label, value = branch_choices(catalog, [])[0]
    assert value == code and label.startswith(f"{code}: {count} items, ")


def test_what_is_found_are_buttons(recommender):  # noqa: F811
    catalog = catalog_of(recommender)
    html = results_html(catalog, [3, 4], "lamp")
    assert html.count("<button") == 2 and 'data-act="add" data-item="i3"' in html
    assert "No title" in results_html(catalog, [], "zebra") and results_html(catalog, [], " ") == ""
    kept = history_html(catalog, [5])
    assert 'data-act="remove" data-item="i5"' in kept and 'data-act="clear"' in kept
    assert "Nothing chosen" in history_html(catalog, [])
