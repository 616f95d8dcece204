"""Which options count for what after a reload, and what goes on through it."""

from __future__ import annotations

from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import MDN, PLAN, SmscByHand, link, mo
from tests.service.intake.stage import NEVER, OK, OTHER, TEMPORARY, LinkByHand
from tests.storage.stock import bound, import_keys, register


def reconfigure(at, *, sync=None, policy=None, **links):
    options = Sync(**{"mdn_burst": 10_000, **(sync or {})})
    at.intake.reconfigure(options, PLAN, policy or SyncPolicy(), links or {"north": link()})


def test_options_of_reading_count_for_the_next_message(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, sync={"short_codes": ("1",)})
    at.intake.messages(smsc, (mo(2),))
    at.run()
    assert smsc.statuses() == [(1, OK), (2, NEVER)]


def test_policy_counts_for_the_batch_that_begins_after_it(at):
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    register(at.store, OTHER, "meter")
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, policy=SyncPolicy(on_sim_change=OnConflict.MOVED))
    at.intake.messages(smsc, (mo(2, source_addr=OTHER),))
    at.run()
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}


def test_messages_in_hand_are_answered_under_the_terms_that_they_came_under(at):
    old, new = SmscByHand(), SmscByHand()
    at.intake.messages(old, (mo(1, text="hello"),))
    reconfigure(at, north=link(never_status=0, in_flight_max=1))
    at.intake.messages(new, (mo(2, text="hello"),))
    assert at.intake.load("north").in_flight == 1
    at.run()
    assert (old.statuses(), new.statuses()) == ([(1, NEVER)], [(2, 0)])
    assert at.intake.load("north").in_flight == 0


def test_link_whose_options_stayed_keeps_what_is_in_work_and_its_failures(start):
    options = link(failures_before_unbind=2, in_flight_max=1)
    at = start(north=options)
    at.intake.attach(north := LinkByHand("north"))
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.intake.messages(SmscByHand(), (mo(2),))
    reconfigure(at, north=options)
    assert at.intake.load("north").in_flight == 1
    at.run()
    assert north.backed_off == 1


def test_messages_in_hand_of_a_link_that_is_gone_are_answered(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2)))
    reconfigure(at, south=link())
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]
    assert at.intake.load("north").in_flight_max == 0


def test_chunk_larger_than_the_new_batch_is_settled_all_the_same(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(0),))
    at.intake.messages(smsc, tuple(mo(number) for number in range(1, 6)))
    reconfigure(at, sync={"batch_max": 2})
    at.intake.messages(smsc, tuple(mo(number) for number in range(6, 11)))
    at.run()
    assert len(smsc.statuses()) == 11
    assert [len(batch) for batch in at.batches] == [1, 5, 2, 2, 1]


def test_senders_keep_their_buckets_unless_the_limit_changed(start):
    at = start(sync={"mdn_burst": 1, "mdn_per_minute": 0.001})
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, sync={"mdn_burst": 1, "mdn_per_minute": 0.001, "short_codes": ()})
    at.intake.messages(smsc, (mo(2),))
    assert smsc.statuses() == [(2, TEMPORARY)]
    reconfigure(at, sync={"mdn_burst": 2, "mdn_per_minute": 0.001})
    at.intake.messages(smsc, (mo(3),))
    at.run()
    assert [number for number, status in smsc.statuses() if status == TEMPORARY] == [2]
