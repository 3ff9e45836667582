"""Each page in Chromium, opened from the file system, with no name of a host that could be resolved."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests_site.conftest import pages

PAGES = pages()
# Pages of the kinds that there are; axe takes a second and more for each.
KINDS = (
    "index.html", "start.html", "the-lecture-in-code.html", "step-through-a-gradient.html", "does-it-vanish.html",
    "command-line.html", "api/engine.html", "examples/index.html", "examples/plot_cliff.html", "search.html", "es.html",
)  # fmt: skip


def narrow(browser, width):
    browser.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_in_silence_and_asks_no_host(page, site, browser):
    browser.open(site / page)
    assert browser.messages() == []
    asked = [address for address in browser.requests() if not address.startswith(("file:", "data:", "about:"))]
    assert asked == []


@pytest.mark.parametrize("page", PAGES)
def test_a_narrow_page_does_not_scroll_sideways(page, site, browser):
    narrow(browser, 320)
    try:
        browser.open(site / page)
        wide = browser.run("""
            const wide = [...document.querySelectorAll("body *")].filter((one) => {
              const box = one.getBoundingClientRect();
              return box.width && box.right > 321 && getComputedStyle(one).position !== "fixed";
            });
            return [document.documentElement.scrollWidth, wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 200))];
        """)
    finally:
        browser.command("Emulation.clearDeviceMetricsOverride")
    assert wide[0] <= 320, wide[1]


def test_the_search_finds_a_method(site, browser):
    browser.open(site / "search.html", "?q=backward_steps")
    found = browser.wait("""
        const end = "api/engine.html#rnn_numpy.engine.Recurrent.backward_steps";
        const found = () => document.querySelector(`#search-results li a[href$="${end}"]`);
        for (let k = 0; k < 600 && !found(); k++) await frame(); // they come one after the other
        return Boolean(found());
    """)
    assert found
    assert browser.messages() == []


def test_the_stepper_in_its_frame_is_alive(site, browser):
    browser.open(site / "step-through-a-gradient.html")
    frame = browser.driver.find_element("css selector", "iframe.stepper")
    browser.run("arguments[0].scrollIntoView({behavior: 'instant'})", frame)  # a smooth scroll would still be under way
    browser.driver.switch_to.frame(frame)
    try:
        browser.wait("for (let k = 0; k < 600 && !window.rnn_numpy; k++) await frame(); return 0;")
        before = browser.state["time"]
        browser.driver.find_element("css selector", "body").click()
        browser.press("n")
        assert browser.state["time"] == 18 != before  # the stop of the page's session
    finally:
        browser.driver.switch_to.default_content()
    assert browser.messages() == []


@pytest.mark.needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", KINDS)
def test_axe_finds_no_violation(page, scheme, site, browser, axe):
    browser.command(
        "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    browser.open(site / page)
    browser.run(axe)
    options = "{ iframes: false, rules: {} }"
    found = browser.wait(f"return (await axe.run(document, {options})).violations")
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]][:5]) for one in found] == []


def test_the_search_is_reached_and_used_by_keys(site, browser):
    browser.open(site / "index.html")
    for _ in range(10):
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement.matches('input.sidebar-search')"):
            break
    browser.press(*"gradcheck", Keys.ENTER)
    found = browser.wait("""
        const links = () => document.querySelectorAll("#search-results li a").length;
        for (let k = 0; k < 600 && links() <= 5; k++) await frame(); // they come one after the other
        return [location.pathname, links()];
    """)
    assert found[0].endswith("/search.html")
    assert found[1] > 5
    assert browser.messages() == []
