"""Variables that Prefect cannot read are one sentence, without the value of a proxy."""

import os
import subprocess
import sys

import pytest

from pipelines.engine import variables
from prosmin.common.errors import UserError


@pytest.fixture
def clean(monkeypatch):
    for name in list(os.environ):
        if name.lower() in variables.CONNECTION:
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:7890"),
        ("https_proxy", "socks://me:secret@127.0.0.1:7890"),
        ("no_proxy", "127.0.0.1,localhost,::1/128"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem"),
    ],
)
def test_a_variable_that_allows_no_connection_is_named_without_its_value(clean, name, value):
    clean.setenv("HTTP_PROXY", "http://127.0.0.1:3128")
    clean.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(UserError, match=rf"with the variable {name} \(.+\); unset") as error:
        variables.check()
    assert "secret" not in str(error.value) and dict(os.environ) == before


def test_proxies_that_can_be_used_are_none_of_its_business(clean):
    clean.setenv("all_proxy", "http://127.0.0.1:3128")
    clean.setenv("NO_PROXY", "10.0.0.0/8,.example.org")
    variables.check()


def test_a_setting_that_prefect_cannot_read_is_named():
    code = "from pipelines.engine import variables; from pipelines.run import command; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}command(variables.check)"],
        env={**os.environ, "PREFECT_CLIENT_MAX_RETRIES": "many"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = "error: PREFECT_CLIENT_MAX_RETRIES is 'many', which Prefect cannot read: "
    assert done.stderr.splitlines()[-1].startswith(said), done.stderr
