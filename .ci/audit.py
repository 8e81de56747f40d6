"""Looks for secrets in the tree, and for known holes in what constraints.txt pins.

Exit status 1 means that something was found. Where no database of advisories can be asked, that is
said in so many words and is no failure, unless CLIPRT_REQUIRE_AUDIT=1 demands an answer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BASELINE = ".secrets.baseline"

# Whoever does not know a hole in this release knows of no holes.
_CANARY = "urllib3==1.26.4"


def main() -> int:
    """Runs both searches, so that one that fails does not hide the other."""
    secret, holes = _secrets(), _holes()
    return int(secret or holes)


def _secrets() -> bool:
    """Whether a tracked file holds what looks like a secret and does not stand in the baseline."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    files = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    files = [name for name in files if name != BASELINE]
    with tempfile.TemporaryDirectory() as folder:
        # A copy, because the hook rewrites it where a line has moved, and ends with 3 then.
        baseline = shutil.copy(ROOT / BASELINE, folder)
        # Nothing is verified: that would send what was found to whom it looks to be for.
        command = [BIN / "detect-secrets-hook", "--no-verify", "--baseline", baseline, *files]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode in (0, 3):
        print(f"audit: no secrets in {len(files)} files")
        return False
    print(found.stdout + found.stderr)
    print("audit: SECRETS; remove and renew them, or mark what is none: pragma: allowlist secret")
    return True


def _holes() -> bool:
    """Whether a pinned release has a known hole; True also where an answer is demanded and none."""
    canary, reason = _asked(_CANARY)
    if not any(each.get("vulns") for each in canary):
        reason = reason or "the database that answers knows no hole in a release that has some"
        print(f"audit: the dependencies COULD NOT BE AUDITED: {reason}")
        return os.environ.get("CLIPRT_REQUIRE_AUDIT") == "1"
    found, reason = _asked((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if reason or skipped:
        print(f"audit: COULD NOT BE AUDITED: {reason or ', '.join(skipped)}")
    bad = [each for each in found if each.get("vulns")]
    for each in bad:
        for hole in each["vulns"]:
            names = ", ".join([hole["id"], *hole.get("aliases", [])])
            fixed = ", ".join(hole["fix_versions"]) or "nowhere yet"
            print(f"audit: {each['name']} {each['version']}: {names}; mended in {fixed}")
    if not bad and not reason:
        print(f"audit: no known holes in {len(found) - len(skipped)} pinned releases")
    demanded = os.environ.get("CLIPRT_REQUIRE_AUDIT") == "1"
    return bool(bad) or (demanded and bool(reason or skipped))


def _asked(pins: str) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of pinned releases, and why it does not speak of all of them."""
    listings = _listings(pins)
    found: list[dict[str, Any]] = []
    for listing in listings:
        answer, reason = _answer(listing)
        if reason:
            return found, reason
        found += answer
    wanted = sum(map(len, listings))
    if len(found) != wanted:
        return found, f"pip-audit spoke of {len(found)} of {wanted} pinned releases"
    return found, ""


def _listings(pins: str) -> list[list[str]]:
    """Pins for every Python, in lists that name no package twice.

    pip-audit passes over pins for another Python than its own, and refuses two of one package.
    """
    listings: list[dict[str, str]] = []
    for line in filter(None, pins.splitlines()):
        pin = line.partition(";")[0].strip()
        name = pin.partition("==")[0]
        fit = next((listing for listing in listings if name not in listing), None)
        if fit is None:
            listings.append(fit := {})
        fit[name] = pin
    return [list(listing.values()) for listing in listings]


def _answer(pins: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of a list, and why it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "pins.txt"
        listing.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [
            *(BIN / "pip-audit", "--requirement", listing, "--no-deps", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off", "--timeout", "15"),
        ]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            return json.loads(run.stdout)["dependencies"], ""
        except subprocess.TimeoutExpired:
            return [], "the database of advisories did not answer within 10 minutes"
        except (ValueError, KeyError):
            # The last line names the error, and where it was to connect, which is nobody's affair.
            last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
            kind = last.partition(":")[0].rpartition(".")[2]
            return [], f"the database of advisories cannot be asked ({kind})"


if __name__ == "__main__":
    sys.exit(main())
