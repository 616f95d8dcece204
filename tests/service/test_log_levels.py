from __future__ import annotations

import importlib
import logging

import pytest

from kmp_smsd.service.log_levels import SUBSYSTEMS, LogLevels


@pytest.fixture
def levels():
    made = LogLevels()
    yield made
    made.fall_back()


def test_a_subsystem_says_more_until_it_falls_back(levels):
    loggers = [logging.getLogger(f"{name}.Class") for name in SUBSYSTEMS["smpp"]]
    before = [logger.getEffectiveLevel() for logger in loggers]
    levels.set("smpp", "error")
    levels.set("smpp", "debug")
    assert {logger.getEffectiveLevel() for logger in loggers} == {logging.DEBUG}
    assert levels.set_by_hand == {"smpp": "debug"}
    levels.fall_back()
    assert [logger.getEffectiveLevel() for logger in loggers] == before
    assert levels.set_by_hand == {}


def test_an_unknown_subsystem_is_refused(levels):
    with pytest.raises(KeyError):
        levels.set("everything", "debug")


def test_every_subsystem_is_made_of_modules_that_exist():
    for names in SUBSYSTEMS.values():
        for name in names:
            importlib.import_module(name)
