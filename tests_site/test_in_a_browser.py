"""Each page in Chromium, opened from the file system, with no name of a host that could be resolved."""

from dataclasses import dataclass

import pytest
from selenium.webdriver.common.keys import Keys

from tests_browser.conftest import Browser
from tests_site.conftest import pages

# What axe is asked in the dark: the rest of its rules do not look at colours.
OF_COLOURS = ["color-contrast", "link-in-text-block"]


@dataclass
class Opened:
    """A page as it was opened, once for all that is asked about it."""

    browser: Browser
    messages: list[str]
    requests: list[str]


@pytest.fixture(scope="module", params=pages())
def opened(request, site, started):
    started.open(site / request.param)
    return Opened(started, started.messages(), started.requests())


def test_a_page_opens_in_silence_and_asks_no_host(opened):
    assert opened.messages == []
    assert [one for one in opened.requests if not one.startswith(("file:", "data:", "about:"))] == []


@pytest.mark.needs_axe
def test_axe_finds_no_violation(opened, axe):
    browser = opened.browser
    browser.run(axe)
    found = {"light": violations(browser, "light"), "dark": violations(browser, "dark", OF_COLOURS)}
    assert found == {"light": [], "dark": []}


def violations(browser, scheme, rules=None):
    """Return what axe finds on the page that is open."""
    browser.command(
        "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    try:
        browser.settle()
        options = {"iframes": False, "preload": False, "resultTypes": ["violations"]} | (
            {"runOnly": {"type": "rule", "values": rules}} if rules else {}
        )
        found = browser.wait("return (await axe.run(document, arguments[0])).violations", options)
    finally:
        browser.command("Emulation.setEmulatedMedia", media="", features=[])
    return [(one["id"], [node["html"][:200] for node in one["nodes"]][:5]) for one in found]


def test_a_narrow_page_does_not_scroll_sideways(opened):
    browser = opened.browser
    browser.command("Emulation.setDeviceMetricsOverride", width=320, height=800, deviceScaleFactor=1, mobile=False)
    try:
        browser.settle()
        wide = browser.run("""
            const width = document.documentElement.clientWidth;
            const wide = [...document.querySelectorAll("article *")].filter((one) => {
              const box = one.getBoundingClientRect(), scrolled = one.closest("[tabindex='0']");
              return box.width && box.right > width + 1 && !scrolled;
            });
            return [document.documentElement.scrollWidth, wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 200))];
        """)
    finally:
        browser.command("Emulation.clearDeviceMetricsOverride")
    assert wide[0] <= 320
    assert wide[1] == []  # neither beyond the edge nor hidden behind it


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
@pytest.mark.parametrize(
    ("scheme", "wrong", "rule"),
    [
        ("light", '<p style="color: #ddd">pale</p>', "color-contrast"),
        ("dark", '<p style="color: #333">as good as black</p>', "color-contrast"),
        ("light", '<img src="a.png">', "image-alt"),
        ("light", "<table><tr><th></th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "empty-table-header"),
    ],
)
def test_axe_finds_what_is_planted(scheme, wrong, rule, site, browser, axe):
    browser.open(site / "changelog.html")
    browser.run("document.querySelector('article').insertAdjacentHTML('beforeend', arguments[0])", wrong)
    browser.run(axe)
    assert [name for name, _ in violations(browser, scheme, OF_COLOURS if scheme == "dark" else None)] == [rule]


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
