"""One Chromium for all tests of pages: Debian's chromium and chromium-driver, without a screen or a network."""

import json
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1200"
)


class Browser:
    """A page in Chromium: what it shows, and what happened to it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, fragment=""):
        self.driver.get("about:blank")
        self.messages()
        self.driver.get_log("performance")
        self.driver.get(f"{path.as_uri()}{fragment}")
        self.settle()

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        """Run a script that awaits something."""
        done = "const done = arguments[arguments.length - 1]; const frame = () => new Promise(requestAnimationFrame);"
        code = f"{done} (async () => {{ {script} }})().then(done, (error) => done('failed: ' + error));"
        found = self.driver.execute_async_script(code, *arguments)
        assert not (isinstance(found, str) and found.startswith("failed: ")), found
        return found

    def settle(self):
        self.wait("await frame(); await frame();")

    def press(self, *keys):
        """Press keys as a person does, one after the other."""
        for key in keys:
            webdriver.ActionChains(self.driver, duration=0).send_keys(key).perform()
        self.settle()

    def command(self, name, **options):
        return self.driver.execute_cdp_cmd(name, options)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    @property
    def state(self):
        return self.run("return window.rnn_numpy.state")

    def messages(self):
        """Return what the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Return the addresses that have been asked for since the page was opened."""
        found = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in found if one["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [
        *FLAGS.split(),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Both paths are given: selenium must not look for a driver of its own.
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(started):
    yield started
    started.command("Emulation.setEmulatedMedia", media="", features=[])


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core, whose path `.ci/run` says."""
    with open(os.environ["AXE_CORE"], encoding="utf-8") as file:
        return file.read()
