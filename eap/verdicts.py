"""What `verify` finds: a verdict a check."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What is checked.
        value: The number found; NaN where it could not be.
        limit: What it has to keep.
        at_most: The limit is an upper one.
        reason: Why it could not be made.
    """

    name: str
    value: float
    limit: float
    at_most: bool = True
    reason: str = ""

    @property
    def passed(self) -> bool:
        """The number keeps the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def text(self) -> str:
        """Verdict, name, number and limit on a line."""
        verdict, sign = "ok" if self.passed else "FAILED", "<=" if self.at_most else ">="
        return f"{verdict:6} {self.name:58} {self.value:10.3g} {sign} {self.limit:g}{'  ' + self.reason if self.reason else ''}"


@dataclass(frozen=True)
class Verification:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """All of them."""
        return all(check.passed for check in self.checks)

    @property
    def text(self) -> str:
        """A line a check."""
        return "\n".join(check.text for check in self.checks)

    def __str__(self) -> str:
        n_passed = sum(check.passed for check in self.checks)
        return f"{n_passed} of {len(self.checks)} checks passed\n{self.text}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
