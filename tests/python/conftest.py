"""What the tests share, and the counts of a run, written where `tests/run` adds them up."""

import os

import grpc
import pytest
import server


@pytest.fixture(scope="session")
def address():
    """Where a server listens that all tests of a run share."""
    with server.running() as address:
        yield address


@pytest.fixture(scope="session")
def channel(address):
    """A connection to it."""
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        yield channel


def pytest_terminal_summary(terminalreporter):
    def count(*outcomes):
        return sum(len(terminalreporter.stats.get(outcome, [])) for outcome in outcomes)

    with open(os.environ.get("PHASEGATE_TEST_COUNTS", os.devnull), "w", encoding="utf-8") as file:
        file.write(f"{count('passed')} {count('failed', 'error')} {count('skipped')}\n")
