"""Passwords and tokens are hidden wherever something is shown or recorded."""

import os
import subprocess
import sys

import pytest
from mlflow_server import free_port

from flows.environment import prepare_environment
from neuroscope.errors import TrackingError
from neuroscope.redaction import public_address, redacted

SECRET = "s3cr3t-x"
_AMAZON = "http://h/?X-Amz-Credential=***&AWSAccessKeyId=***"
_ODBC = "mssql://?odbc_connect=UID%3Dme%3BPWD%3D***%3BX%3D1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@host:1/x", "http://me:***@host:1/x"),
        ("http://me:p@ss:w@host/x", "http://me:***@host/x"),
        ("https://token@host", "https://***@host"),
        ("http://me:a/b?c#d@host/x", "http://me:***@host/x"),
        ("http://me:a b@host/x", "http://me:***@host/x"),
        ("http://host.org:5000/a@b", "http://host.org:5000/a@b"),
        ("http://localhost:5000/#/a@b", "http://localhost:5000/#/a@b"),
        ("https://token:x-oauth-basic@h/a", "https://***@h/a"),
        ("https://token:@h/a", "https://***@h/a"),
        ("postgresql://u:1234/S@h/db", "postgresql://u:***@h/db"),
        ("postgresql://a.b:1234#S@h/db", "postgresql://a.b:***@h/db"),
        ("http://u:1234/S@h/db", "http://u:***@h/db"),
        ("http://a.b:c/d@h", "http://a.b:***@h"),
        ("http://h/?sv=1&sig=a%2Fb%3D&se=2", "http://h/?sv=1&sig=***&se=2"),
        (
            "http://h/?pass=a&credential=b&jwt=c&x=d",
            "http://h/?pass=***&credential=***&jwt=***&x=d",
        ),
        ("http://h/?X-Amz-Credential=a&AWSAccessKeyId=b", _AMAZON),
        ("http://h/?password=a)b'c&x=1", "http://h/?password=***&x=1"),
        ("(http://h/?token=a), then", "(http://h/?token=***), then"),
        ("http://h/a#access_token=abc&x=1", "http://h/a#access_token=***&x=1"),
        ("mssql://?odbc_connect=UID%3Dme%3BPWD%3Da%25b%3BX%3D1", _ODBC),
        ("mssql://?odbc_connect=UID%3Dme%3BPWD%3D%7Ba%3Bb%7D%3BX%3D1", _ODBC),
        ("m://?odbc_connect=PWD%3Da", "m://?odbc_connect=PWD%3D***"),
        ("Driver={x};UID=u;PWD={a;b};X=1", "Driver={x};UID=u;PWD=***;X=1"),
        ("AccountName=a;AccountKey=b==;X=c", "AccountName=a;AccountKey=***;X=c"),
        ("host=h user=u password=s dbname=d", "host=h user=u password=*** dbname=d"),
        ("host=h password = 'a b\\'c' user=u", "host=h password = *** user=u"),
        ("connect(user='u', password='a b')", "connect(user='u', password=***)"),
        ("http://h/?keyboard=a&monkey=b&author=c", "http://h/?keyboard=a&monkey=b&author=c"),
        ("http://h/?tokenizer=a&compass=b&design=c", "http://h/?tokenizer=a&compass=b&design=c"),
        ("'http://docs.org:a text me@x.org'", "'http://docs.org:a text me@x.org'"),
        ("http://docs:5000/a and me@x.org", "http://docs:5000/a and me@x.org"),
        ("the key=3 and a token=cat; PWD=/work", "the key=3 and a token=cat; PWD=/work"),
        ("http://:pass@host", "http://:***@host"),
        ("at postgresql+psycopg://me:a%40b@db/m, or", "at postgresql+psycopg://me:***@db/m, or"),
        ("postgresql://db/m?user=me&password=abc", "postgresql://db/m?user=me&password=***"),
        ("http://h/?access_token=abc&x=1#f", "http://h/?access_token=***&x=1#f"),
        ("http://h/?a=1&API-KEY=abc", "http://h/?a=1&API-KEY=***"),
        ("'http://a:b@h' and 'http://c:d@h'", "'http://a:***@h' and 'http://c:***@h'"),
        ("sqlite:////tmp/a@b/c:d.db", "sqlite:////tmp/a@b/c:d.db"),
        ("http://127.0.0.1:5000/@x", "http://127.0.0.1:5000/@x"),
        ("models:/news@champion", "models:/news@champion"),
        ("write to me@host.org", "write to me@host.org"),
    ],
)
def test_secrets_in_addresses_are_hidden(text, expected):
    assert redacted(text) == expected == redacted(expected)


def test_values_of_settings_are_hidden_wherever_they_occur(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-12345")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:a%40bcd@proxy:1")
    assert redacted("refused 'tok-12345' and a@bcd or a%40bcd") == "refused '***' and *** or ***"
    assert str(TrackingError("tok-12345", remedy="not tok-12345")) == "***; not ***"


def test_the_user_is_the_secret_of_a_login_without_a_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://tok-12345:x-oauth-basic@proxy:1")
    assert redacted("refused tok-12345, x-oauth-basic") == "refused ***, x-oauth-basic"


def test_an_address_for_a_browser_has_no_user():
    assert public_address("http://me:p@ss@host:5000/a") == "http://host:5000/a"
    assert public_address("http://host:5000") == "http://host:5000"


def test_a_login_in_the_address_of_prefect_becomes_a_setting(monkeypatch, home):
    monkeypatch.setenv("PREFECT_API_URL", "http://me:s3%40cret@127.0.0.1:4200/api")
    prepare_environment()
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "me:s3@cret"


def test_a_proxy_may_be_named_without_its_scheme(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "me:hunter22@proxy:3128")
    assert redacted("cannot use me:hunter22@proxy:3128") == "cannot use me:***@proxy:3128"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def files_with(secret, folder):
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


@pytest.mark.slow
def test_a_recorded_run_reveals_no_password(family_folder, home, tmp_path, mlflow_server):
    address = mlflow_server.address.replace("://", f"://me:{SECRET}@")
    models = ["--model", str(family_folder("bert")), "--model", str(family_folder("llama"))]
    for arguments in ((), ("--json",)):
        process = run(
            "compare", "the cat", "the dog", *models, *arguments, MLFLOW_TRACKING_URI=address
        )
        assert process.returncode == 0, process.stderr
        assert SECRET not in process.stdout + process.stderr
        assert f"{mlflow_server.address}/#/experiments" in process.stdout
    assert files_with(SECRET, tmp_path) == files_with(SECRET, mlflow_server.folder) == []
    assert files_with(mlflow_server.address, mlflow_server.folder)  # the link in the report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
def test_a_server_that_does_not_respond_is_named_without_its_password(name, tmp_path, home):
    experiment = tmp_path / "a.yaml"
    experiment.write_text("kind: compare\nname: a\nmodels: [minilm]\nprompts: [{texts: [a, b]}]\n")
    port = free_port()
    process = run("run", str(experiment), **{name: f"http://me:{SECRET}@127.0.0.1:{port}/api"})
    assert process.returncode == 69 and f"127.0.0.1:{port}" in process.stderr
    assert SECRET not in process.stdout + process.stderr and not files_with(SECRET, tmp_path)
