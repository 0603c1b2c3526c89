"""A headless browser for the tests of pages, where Debian's chromium (or another Chrome) and its driver are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from browser import Browser

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a worker; without one they are skipped, and say so."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pages are not tested")
    program, driver = (next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS))
    if program is None or driver is None:
        pytest.skip("no chromium with its driver: pages are not tested (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.set_script_timeout(20)
    yield Browser(session)
    session.quit()
