"""Print every skipped test with its reason; fail on a reason that .ci/skips.txt does not list.

    python .ci/skips.py REPORT.xml [SKIPS.txt]

REPORT.xml is pytest's (--junitxml). SKIPS.txt has one pattern a line (`*` and `?` as in file names), `#` comments.
Expected failures count as skips: they too are tests that do not hold.
"""

import sys
import xml.etree.ElementTree as ElementTree
from fnmatch import fnmatchcase
from pathlib import Path


def skipped(report: Path) -> list[tuple[str, str]]:
    """(test, reason) of every skipped or expectedly failing test in a JUnit report."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for skip in case.findall("skipped"):
            name = "::".join(filter(None, [case.get("classname"), case.get("name")]))
            found.append((name, skip.get("message") or "no reason given"))
    return found


def patterns(path: Path) -> list[str]:
    """The reasons that are listed."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main(report: Path, listed: Path) -> int:
    """Print the skipped tests; 1 if one of the reasons is not listed."""
    known = patterns(listed)
    skips = skipped(report)
    unlisted = 0
    for name, reason in skips:
        fine = any(fnmatchcase(reason, pattern) for pattern in known)
        unlisted += not fine
        print(f"skipped: {name}: {reason}" + ("" if fine else "   <- not listed in .ci/skips.txt"))
    print(f"{len(skips)} skipped, {unlisted} for a reason that is not listed")
    return 1 if unlisted else 0


if __name__ == "__main__":
    default = Path(__file__).with_name("skips.txt")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default))
