"""Signals ask to stop; whoever had them before gets them back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from lit_cartridges.runs.stop_signals import StopSignals


def test_a_second_ctrl_c_stops_at_once_and_gives_both_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signals = StopSignals()
    signals.take()
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.interrupted and not signals.terminated
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signal.getsignal(signal.SIGINT)  # a handler runs between two instructions
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_process_has_been_told():
    signals = StopSignals()
    assert not signals.agree(lambda mine, *, all: mine)
    assert signals.agree(lambda mine, *, all: True)
    assert signals.terminated
    signals.forget()
    assert not signals.interrupted and not signals.terminated


def test_no_signals_are_taken_in_another_thread():
    before, signals = signal.getsignal(signal.SIGTERM), StopSignals()
    thread = threading.Thread(target=signals.take)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
