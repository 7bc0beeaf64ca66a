"""What the tests share."""

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
