"""Tables in a browser: any text is text, every number leads to its runs, bars stay inside."""

import re
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sheets import ARBITRARY, FINITE, PERCENT, Page, attacks, sheet_of

from papertrail.tables.html import span
from papertrail.tables.render import to_html
from papertrail.tables.sheet import Cell, Column, measured, missing, one_line, refused


@given(text=ARBITRARY, url=ARBITRARY)
def test_html_is_well_formed_and_shows_any_text_as_text(text, url):
    hostile = text + "\"'><script>alert(1)</script><img src=x onerror=y>"
    cells = (measured(1.0, note=hostile, runs=(hostile,)), refused(hostile, runs=("a", hostile)))
    more = {"title": hostile, "caption": hostile, "footnotes": (hostile,), "name": hostile}
    columns = (Column(key="model", title=hostile), Column(key="x", title="", help=hostile))
    more |= {
        "columns": columns,
        "links": {hostile: "https://" + url + hostile},
        "provenance": {hostile: [hostile]},
    }
    page = Page(to_html(sheet_of(*cells, Cell(value=hostile), **more)))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not {name for _, attrs in page.tags for name in attrs if name.startswith("on")}
    assert one_line(hostile) in "".join(page.words)


@given(
    ARBITRARY, st.sampled_from(["javascript:", " javascript:", "JaVa\nScript:", "data:", "file:"])
)
def test_no_link_leaves_the_web(rest, scheme):
    page = Page(to_html(sheet_of(measured(1.0, runs=("r",)), links={"r": scheme + rest})))
    assert all(attrs["href"].startswith("#note") for tag, attrs in page.tags if tag == "a")
    assert "r" in page.words  # the id stands there as text


def test_every_number_leads_to_each_of_its_runs():
    sheet = attacks()
    hrefs = {attrs["href"] for tag, attrs in Page(to_html(sheet)).tags if tag == "a"}
    assert {sheet.links[run] for run in sheet.runs()} <= hrefs
    body = to_html(sheet).partition("<tbody>")[2].partition("</tbody>")[0]
    assert all(sheet.links[run] in unescape(body) for run in sheet.runs())


def test_the_page_asks_for_nothing_from_outside():
    html = to_html(attacks())
    assert not re.search(r"<script|<link|@import|url\(|src=", html)


def test_the_page_is_a_table_to_a_screen_reader():
    page = Page(to_html(attacks()))
    scopes = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
    assert scopes == ["col"] * 7 + ["row"] * 2
    assert [tag for tag, _ in page.tags].count("caption") == 1
    targets = {
        attrs["href"][1:] for tag, attrs in page.tags if attrs.get("href", "")[:5] == "#note"
    }
    assert targets == {attrs["id"] for _, attrs in page.tags if "id" in attrs}


def test_provenance_names_table_commit_and_runs():
    text = Page(to_html(attacks())).text()
    assert all(fact in text for fact in ("attack_success", "3f9c2ab", "2026-11-21", "9 runs"))


@given(st.lists(st.tuples(FINITE, FINITE, FINITE).map(sorted), min_size=1, max_size=4))
@example([[0.0, 0.0, 1.7285510912137654e306]])  # 100 times this is no float
def test_every_range_bar_stays_inside_its_cell(triples):
    cells = [Cell(value=v, low=low, high=high) for low, v, high in triples]
    styles = [
        attrs["style"] for tag, attrs in Page(to_html(sheet_of(*cells))).tags if "style" in attrs
    ]
    for style in styles:
        left, width = (float(x) for x in re.findall(r"-?[\d.]+|nan|inf", style + ";0")[:2])
        assert -0.1 <= left <= 100.1 and left + width <= 100.2


def test_bars_of_rates_share_nought_to_one_so_that_columns_compare_by_eye():
    rate = measured(0.2, interval=(0.1, 0.3), format=PERCENT)
    assert span([rate, missing()]) == (0.0, 1.0)
    assert span([measured(24.0, interval=(23, 25))]) == pytest.approx((22.92, 25.08))
    assert span([missing()]) is None
