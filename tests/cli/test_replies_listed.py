"""What an operator sees of replies to terminals."""

from __future__ import annotations

from msgspec.structs import replace

from kmp_smsd.domain.reply import ReplyResult, ReplyState, ReplyTo
from tests.cli.site import FIRST, SECOND
from tests.storage.stock import NOW, confirm_all, sync


def test_replies_are_listed_with_what_became_of_them(site):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    assert site.ok("replies", "list") == "kmp-smsd: no replies\n"
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        for mdn, key in ((FIRST, "K1"), (SECOND, "K2")):
            store.settle([replace(sync(mdn, key), reply_to=ReplyTo(1, 1, mdn, 0, 1, "10690001"))], NOW)
        confirm_all(store)
        first, second = store.replies.exchange([], {"north": 10}, NOW)
        waits = ReplyResult(first.number, ReplyState.WAITING, 0x58)
        store.replies.exchange([waits, ReplyResult(second.number, ReplyState.SENT, 0, "id-7")], {}, NOW)
    header, one, two = site.ok("replies", "list").splitlines()
    assert header.split()[:5] == ["MDN", "app", "key", "link", "reply"]
    assert one.split()[:5] == [FIRST, "meter", "K1", "north", "waiting"]
    assert "ESME_RTHROTTLED (0x58)" in one
    assert two.split()[:5] == [SECOND, "meter", "K2", "north", "sent"]
    assert two.endswith("id-7")
    (row,) = site.rows("replies", "list", "--mdn", "+86 138 0000 0002")
    assert (row["mdn"], row["state"], row["command_status"], row["message_id"]) == (SECOND, "sent", 0, "id-7")
