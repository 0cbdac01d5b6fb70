"""Check the variables of the environment that Prefect reads while it is imported."""

import os
from typing import TYPE_CHECKING

from prosmin.common.errors import UserError, reason, shown

if TYPE_CHECKING:
    from pydantic import ValidationError

# In any case. Prefect's client reads them before any connection, also to this machine.
CONNECTION = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


def check() -> None:
    """Check that Prefect can be imported and that its client can be made.

    Raises:
        UserError: where a variable holds what Prefect cannot read, or names a proxy of a kind that
            its client does not know.
    """
    _check_connection()
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        get_current_settings()
    except ValidationError as error:
        raise UserError(_sentence(error)) from None


def _check_connection() -> None:
    if not (fault := _fault()):
        return
    given = sorted(name for name in os.environ if name.lower() in CONNECTION)
    values = {name: os.environ.pop(name) for name in given}
    culprit = None
    for name, value in values.items():
        os.environ[name] = value
        if culprit is None and _fault():
            culprit = name
    # The value may hold a password.
    raise UserError(
        f"Prefect cannot connect to anything with the variable {culprit or ', '.join(given)} "
        f"({fault}); unset or correct it"
    )


def _fault() -> str:
    """Why Prefect's client cannot be made; empty where it can."""
    from httpx import Client, InvalidURL

    try:
        Client().close()
    except (ImportError, ValueError, InvalidURL, OSError) as error:
        return reason(error)
    return ""


def _sentence(error: "ValidationError") -> str:
    """The first fault of Prefect's settings."""
    fault = error.errors()[0]
    value = str(fault["input"])
    # pydantic does not say from which variable it has the value, which may be in capitals.
    same = [
        name
        for name, text in sorted(os.environ.items())
        if name.startswith("PREFECT_") and text.lower() == value.lower()
    ]
    key = f"{error.title}.{'.'.join(map(str, fault['loc']))}"
    name = " or ".join(same) or key
    return f"{name} is {shown(value)}, which Prefect cannot read: {fault['msg']}"
