"""What a check finds: one sentence each, with the rule that it broke, and the whole as text and as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """
    Args:
        rule: the name of the law, as docs/hub.md lists it.
        where: a file, or `file:line`; empty for the folder as a whole.
        says: one sentence that names the fix.
        level: an error is what fails or misleads a user; a warning burdens some; a note is a fact to know.
    """

    rule: str
    where: str
    says: str
    level: str = "error"

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{self.level}: {place}{self.says} [{self.rule}]"


@dataclass
class Report:
    """What was looked at, what was found, and facts that a reader wants to see, a line each."""

    subject: str
    findings: list[Finding] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def of_level(self, level: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    @property
    def errors(self) -> list[Finding]:
        return self.of_level("error")

    def add(self, findings: Iterable[Finding]):
        self.findings += [finding for finding in findings if finding not in self.findings]

    def text(self) -> str:
        lines = [self.subject, *(f"  {fact}" for fact in self.facts)]
        for level in LEVELS:
            lines += [f"  {finding}" for finding in self.of_level(level)]
        counts = ", ".join(f"{len(self.of_level(level))} {level}s" for level in LEVELS)
        return "\n".join([*lines, f"{'Not sound' if self.errors else 'Sound'}: {counts}."])

    def json(self) -> str:
        return json.dumps(
            {
                "subject": self.subject,
                "sound": not self.errors,
                "facts": self.facts,
                "findings": [asdict(finding) for finding in self.findings],
            },
            indent=1,
        )
