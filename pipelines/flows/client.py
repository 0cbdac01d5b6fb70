"""A client of Prefect's server that does not wait: by default Prefect's asks for a minute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@contextmanager
def quick_client(seconds: float) -> Iterator["SyncPrefectClient"]:
    """A client that asks the server once and waits ``seconds`` for an answer."""
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    once = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: seconds}
    with temporary_settings(once), get_client(sync_client=True) as client:
        yield client
