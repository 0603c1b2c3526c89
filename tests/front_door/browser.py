"""What tests of pages ask of a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Browser:
    """A page at a time, with the questions that tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Load a page and forget what was logged before."""
        self.errors(), self.requests()
        self.driver.get(path.as_uri())

    def do(self, script: str, *arguments: Any) -> Any:
        """Run a script, wait until the page has drawn, and give what the script returns."""
        waiting = f"const done = arguments[arguments.length - 1]; const found = (function () {{ {script} }}).apply(null, arguments);"
        return self.driver.execute_async_script(
            waiting + "requestAnimationFrame(() => requestAnimationFrame(() => done(found)));", *arguments
        )

    def choose(self, k: int) -> None:
        """Type a number of edges."""
        self.do(
            "const n = document.getElementById('number'); n.value = arguments[0]; n.dispatchEvent(new Event('change'))",
            k,
        )

    def toggle(self, name: str) -> None:
        """Click a filter."""
        self.do("document.querySelector(`[data-filter='${arguments[0]}']`).click()", name)

    def edges(self) -> list[str]:
        """Names of the edges of the table, all of them."""
        self.do("document.getElementById('more')?.click()")
        return self.do("return [...document.querySelectorAll('#table tr[data-edge]')].map((row) => row.dataset.edge)")

    def text(self, selector: str) -> str:
        """Text of an element."""
        return self.do("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return self.do("return document.querySelectorAll(arguments[0]).length", selector)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()
        self.do("")

    def errors(self) -> list[str]:
        """What the console says since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
