"""A source that is gone, told from items that are bad each for itself."""

from __future__ import annotations

from cliprt._errors import DeploymentError
from cliprt_batch._outcome import Part
from cliprt_batch._records import PART_ITEMS

IN_A_ROW = 2 * PART_ITEMS
"""Pictures that cannot be read one after the other before a run ends."""


class Outage:
    """Watches for a source that is gone: a disk unmounted, credentials expired.

    Without it a run would put down all items that are left as failed, and end well.
    """

    def __init__(self, keep_going: bool) -> None:
        """Begins with the next part.

        Args:
            keep_going: take items for failed however many there are.
        """
        self._keep_going = keep_going
        self._count = 0
        self._first = ("", "")

    def look(self, part: Part) -> None:
        """Looks at a part that is finished and not yet kept; parts come in their order.

        Items whose picture nobody tried to read, for lack of one, neither count nor end a row.

        Args:
            part: the next one.

        Raises:
            DeploymentError: with it ``IN_A_ROW`` pictures in a row could not be read.
        """
        if self._keep_going:
            return
        for key, reason in part.readings():
            if reason is None:
                self._count = 0
                continue
            if not self._count:
                self._first = (key, reason)
            self._count += 1
            if self._count >= IN_A_ROW:
                key, reason = self._first
                raise DeploymentError(
                    f"the last {IN_A_ROW:,} pictures could not be read, the first of them, "
                    f"{key[:200]!r}, for this reason: {reason}; is the disk mounted, are the "
                    "credentials valid? What is done is kept: the same command goes on, with "
                    "--retry-failed it also tries those again that are put down as failed; "
                    "--keep-going takes them all for failed"
                )
