"""The page in a real browser, beside a backfill that runs: it follows, and does as it is told.

Every answer of the site has a content security policy that allows nothing but the site's own files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from migrations_playbook.admin import sight, standing
from tests.fixtures.database import Database, wait_until
from tests.fixtures.site import (
    DESKTOP,
    LIST,
    ONE,
    PHONE,
    make_user,
    missing_browser,
    open_browser,
    prefer_theme,
    resize_page,
    serve_site,
    sign_in,
)
from tests.fixtures.tickets import add_old_tickets, nulls

# As slow as the tests need it: it is under way until it is told otherwise.
SLOW = (
    "backfill_new_token",
    "--no-throttle",
    "--batch-size",
    "200",
    "--max-rows-per-second",
    "500",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser, once for all tests of this module; where there is none they are skipped."""
    if (missing := missing_browser()) is not None:
        pytest.skip(missing)  # a system package, which pip cannot bring
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        resize_page(opened, DESKTOP)
        yield opened


@pytest.fixture
def site(database: Database, browser: Chrome, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The site's address; the browser is signed in as somebody who may do everything there."""
    # As in life, ten times as fast.
    for module in (sight, standing):
        monkeypatch.setattr(module, "LOOK_EVERY", sight.LOOK_EVERY / 10)
    monkeypatch.setattr(standing, "REST_EVERY", standing.REST_EVERY / 10)
    for name in ("TABLE_EVERY", "SAMPLE_EVERY"):
        monkeypatch.setattr(sight, name, getattr(sight, name) / 10)
    monkeypatch.setattr(sight, "RATE_FROM", sight.RATE_FROM / 10)
    add_old_tickets(database, 20_000)
    client = sign_in(make_user("view", "pause", "resume", "retune"))
    with serve_site() as address:
        browser.get(f"{address}/admin/login/")
        browser.delete_all_cookies()
        browser.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
        read_log(browser)
        yield address
        browser.get("about:blank")
    assert read_log(browser) == [], "the browser complains of the policy, a script or a request"


def read_log(browser: Chrome) -> list[str]:
    """What the browser has complained of since it was asked last; the site has no icon."""
    entries = cast("Any", browser.get_log("browser"))  # type: ignore[no-untyped-call]
    return [each["message"] for each in entries if "favicon" not in each["message"]]


def text_of(browser: Chrome, name: str) -> str:
    """What a part of the page says; in one step, for the page may be loaded again meanwhile."""
    script = "return document.getElementById(arguments[0])?.innerText ?? ''"
    return str(browser.execute_script(script, name))


def follow_run(database: Database, browser: Chrome, site: str) -> None:
    """Start a backfill, and open the page that follows it until it shows the rate."""
    database.start(*SLOW)
    browser.get(site + ONE)
    wait_until(lambda: "Filling" in text_of(browser, "summary"), "the run is seen")
    wait_until(lambda: "rows a second" in text_of(browser, "progress"), "the rate is seen")


def press(browser: Chrome, label: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f'input[value="{label}"]').click()


def test_it_follows_a_run_by_itself_from_the_first_batch_to_the_last(
    database: Database, browser: Chrome, site: str
) -> None:
    browser.get(site + ONE)
    assert "No backfill is at work" in text_of(browser, "summary")
    assert "follows by itself" in text_of(browser, "following")
    follow_run(database, browser, site)
    browser.execute_script("window.unchanged = true")
    seen = text_of(browser, "progress")
    wait_until(lambda: text_of(browser, "progress") != seen, "the page follows")
    assert browser.execute_script("return window.unchanged"), "without being loaded again"
    press(browser, "Pause")
    wait_until(lambda: "Paused" in text_of(browser, "summary"), "the pause is seen")
    wait_until(lambda: "waits: pause" in text_of(browser, "workers"), "and felt by the worker")
    rest = browser.find_element(By.NAME, "max_rows_per_second")
    rest.send_keys("1000000", Keys.ENTER)
    wait_until(lambda: "1e+06" in text_of(browser, "progress"), "the pace is another")
    press(browser, "Resume")
    wait_until(lambda: "Every row is filled" in text_of(browser, "summary"), "the end is seen")
    assert nulls(database) == 0
    assert "swap_token_columns" in text_of(browser, "next-command")


def test_what_is_put_in_place_takes_no_focus_away(
    database: Database, browser: Chrome, site: str
) -> None:
    follow_run(database, browser, site)
    field = browser.find_element(By.NAME, "target_ms")
    field.send_keys("12")
    seen = text_of(browser, "progress")
    wait_until(lambda: text_of(browser, "progress") != seen, "the page follows")
    assert browser.switch_to.active_element == field
    assert field.get_attribute("value") == "12"


def test_everything_is_reached_by_the_keyboard_and_the_focus_is_seen(
    browser: Chrome, site: str
) -> None:
    browser.get(site + ONE)
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        name = focused.get_attribute("id") or focused.get_attribute("value") or focused.text
        html = focused.get_attribute("outerHTML")
        if browser.execute_script("return arguments[0].closest('.playbook') !== null", focused):
            assert focused.value_of_css_property("outline-width") == "3px", html
        reached.append(name)
    acts = ["Copy", "Pause", "Resume", "id_max_added_ms", "id_target_ms", "id_duty", "Retune"]
    assert [name for name in reached if name in acts][: len(acts)] == acts


@pytest.mark.parametrize("address", [LIST, ONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_screen_and_can_be_read_in_either_theme(
    browser: Chrome, site: str, address: str, theme: str, size: tuple[int, int]
) -> None:
    resize_page(browser, size)
    prefer_theme(browser, theme)
    browser.get(site + address)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert unreadable(browser) == []


def test_who_is_signed_out_is_told_that_the_page_follows_no_more(
    database: Database, browser: Chrome, site: str
) -> None:
    follow_run(database, browser, site)
    browser.delete_all_cookies()
    wait_until(lambda: "follows no more" in text_of(browser, "following"), "the end is said")


def unreadable(browser: Chrome) -> list[str]:
    """The texts of the page with less contrast than WCAG's AA asks for, 4.5 to 1."""
    found: list[str] = browser.execute_script("""
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        function light(colour) {
            const [r, g, b] = numbers(colour).map((each) => {
                const part = each / 255;
                return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }
        function behind(element) {
            for (let each = element; each; each = each.parentElement) {
                const colour = getComputedStyle(each).backgroundColor;
                if ((numbers(colour)[3] ?? 1) > 0) return colour;
            }
            return "rgb(255, 255, 255)";
        }
        const poor = [];
        for (const each of document.querySelectorAll(".playbook *")) {
            const texts = [...each.childNodes].filter((part) => part.nodeType === 3);
            if (!texts.some((text) => text.data.trim()) || !each.checkVisibility()) continue;
            if (each.closest("progress, noscript")) continue;
            const shades = [light(getComputedStyle(each).color), light(behind(each))].sort();
            const [dark, bright] = shades[0] < shades[1] ? shades : shades.reverse();
            if ((bright + 0.05) / (dark + 0.05) < 4.5) poor.push(each.textContent.trim());
        }
        return poor;""")
    return found
