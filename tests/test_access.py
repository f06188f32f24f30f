"""Who is let in, how a browser gets in, and how often a client may ask."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from fakes import AppClient, fake_forecaster
from feastrain.errors import UsageError
from feastrain.serving.access import SESSION_SECONDS, Buckets, Tokens
from feastrain.serving.api import create_app
from feastrain.settings import Settings, load_settings
from served_apps import LEVELS

OLD, NEW = "old-token-0123456789", "new-token-0123456789"
ASK = {"series": [{"site": 1, "item": "b"}]}


def app_of(**settings: object) -> FastAPI:
    forecaster, _, history = fake_forecaster(LEVELS)
    return create_app(forecaster, history, Settings.model_validate(settings))


def client_of(**settings: object) -> AppClient:
    return AppClient(app_of(**settings))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def client() -> AppClient:
    """A client of an app that two tokens open, as while one is being replaced."""
    return client_of(serve_tokens=f"{OLD},{NEW}")


@pytest.mark.parametrize("token", [OLD, NEW])
def test_any_of_the_tokens_lets_a_client_in(client: AppClient, token: str) -> None:
    """So that clients can change from one to the next in their own time."""
    assert client.post("/v1/forecasts", json=ASK, headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong-token-012345"),
        bearer(""),
        bearer(OLD[:-1]),
        {"authorization": f"Basic {OLD}"},
        {"authorization": OLD},
        {"cookie": f"feastrain_session={OLD}"},
        {"cookie": "feastrain_session=99999999999.00"},
        {"cookie": "feastrain_session="},
    ],
)
def test_without_a_valid_token_nothing_is_told(client: AppClient, headers: dict[str, str]) -> None:
    """401 with the scheme that is wanted, in one line that shows no token."""
    answer = client.post("/v1/forecasts", json=ASK, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"].startswith("a valid token is needed: send it as")
    assert OLD not in answer.text


@pytest.mark.parametrize("path", ["/openapi.json", "/static/app.js", "/no/such/path"])
def test_every_path_needs_a_token(client: AppClient, path: str) -> None:
    """Even one that is not there: the answer does not tell which are."""
    assert client.get(path).status_code == 401


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Return the method and path of everything that an app has, its mounted files included."""
    files = [("GET", f"{route.path}/app.js") for route in app.routes if isinstance(route, Mount)]
    routed = [route for route in app.routes if isinstance(route, Route)]
    return files + [(m, route.path) for route in routed for m in sorted(route.methods or ())]


def test_no_route_is_open_but_liveness() -> None:
    """Whatever a later change adds to the app is behind the tokens too."""
    app = app_of(serve_tokens=OLD)
    client, routes = AppClient(app), routes_of(app)
    answers = {route: client.ask(*route).status_code for route in routes}
    opened = {(method, path) for method, path in routes if path == "/healthz/live"}
    assert {("GET", "/"), ("GET", "/metrics"), ("GET", "/static/app.js")} <= set(routes)
    assert {route: 200 if route in opened else 401 for route in routes} == answers


@pytest.mark.parametrize("opened", [False, True])
def test_the_description_says_which_routes_need_a_token(opened: bool) -> None:
    """A generated client sends it where it must, and what it says is what happens."""
    client = client_of(serve_tokens=OLD, serve_open_probes=opened)
    document = client.get("/openapi.json", headers=bearer(OLD)).json()
    assert {"token": {"type": "http", "scheme": "bearer"}} == document["components"][
        "securitySchemes"
    ]
    told, found = {}, {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            told[path, method] = bool(operation.get("security", document["security"]))
            found[path, method] = client.ask(method.upper(), path).status_code == 401
    assert found == told


def test_a_server_without_tokens_describes_none() -> None:
    """A client is not asked for what nobody checks."""
    document = client_of().get("/openapi.json").json()
    assert {"security", "securitySchemes"}.isdisjoint({*document, *document["components"]})


@pytest.mark.parametrize(("opened", "expected"), [(False, 401), (True, 200)])
def test_probes_are_open_where_a_setting_says_so(opened: bool, expected: int) -> None:
    """Liveness always is: who probes it learns nothing."""
    client = client_of(serve_tokens=OLD, serve_open_probes=opened)
    assert client.get("/healthz/live").status_code == 200
    assert client.get("/healthz/ready").status_code == expected
    assert client.get("/metrics").status_code == expected


def test_a_planner_signs_in_at_the_page(client: AppClient) -> None:
    """The form takes a token for a cookie that scripts and other sites cannot use."""
    form = client.get("/")
    assert form.status_code == 401
    assert "Access token" in form.text
    assert "form-action 'self'" in form.headers["content-security-policy"]
    signed_in = client.post("/", data={"token": NEW})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "./")
    cookie = signed_in.headers["set-cookie"]
    assert NEW not in cookie
    assert {"HttpOnly", "SameSite=strict", f"Max-Age={SESSION_SECONDS}"} <= set(cookie.split("; "))
    kept = {"cookie": cookie.split(";")[0]}
    assert "exceptions" in client.get("/", headers=kept).text
    assert client.get("/v1/outlook", headers=kept).status_code == 200


@pytest.mark.parametrize("content", ["token=wrong-token-012345", "", "token=", "token=%FF", "\xff"])
def test_the_form_says_that_a_token_is_not_valid(client: AppClient, content: str) -> None:
    """Whatever was sent in its place, and without a cookie."""
    answer = client.post("/", content=content.encode("latin-1"))
    assert answer.status_code == 401
    assert "This token is not valid." in answer.text
    assert "set-cookie" not in answer.headers


def test_a_session_ends() -> None:
    """After twelve hours, and at once when its token is withdrawn."""
    tokens = Tokens((OLD, NEW))
    cookie = tokens.session(OLD, 1000.0)
    assert tokens.holder_of_session(cookie, 1000.0) == tokens.holder(OLD)
    assert tokens.holder_of_session(cookie, 1001.0 + SESSION_SECONDS) is None
    assert Tokens((NEW,)).holder_of_session(cookie, 1000.0) is None
    later = cookie.replace(str(1000 + SESSION_SECONDS), str(9000 + SESSION_SECONDS))
    assert tokens.holder_of_session(later, 1000.0) is None


def test_a_file_of_tokens_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are exchanged while the server runs; a file that went away withdraws none."""
    monkeypatch.setattr("feastrain.serving.access.LOOK_SECONDS", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"{OLD}\n")
    tokens = Tokens((), path)
    assert [tokens.holder(OLD) is None, tokens.holder(NEW) is None] == [False, True]
    path.write_text(f"{NEW}\n\n")
    assert [tokens.holder(OLD) is None, tokens.holder(NEW) is None] == [True, False]
    path.unlink()
    assert tokens.holder(NEW) is not None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("short\n", "a token of .* is shorter than 16 characters: make one with"),
        ("\n", "has no token: write one a line"),
        (None, r"cannot be read \(FileNotFoundError\): mend the file"),
    ],
)
def test_tokens_that_cannot_be_meant_are_refused_at_the_start(
    tmp_path: Path, content: str | None, error: str
) -> None:
    """An empty file would lock everybody out; a short token can be guessed."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=error) as caught:
        client_of(serve_tokens_file=path)
    assert "short\n" not in str(caught.value)


def test_settings_never_show_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printed, nor in the line that says that another setting is wrong."""
    monkeypatch.setenv("FEASTRAIN_SERVE_TOKENS", f"{OLD}, {NEW},")
    settings = load_settings()
    assert [OLD, NEW] == [token.get_secret_value() for token in settings.serve_tokens]
    assert OLD not in repr(settings)
    assert OLD not in settings.model_dump_json()
    monkeypatch.setenv("FEASTRAIN_PORT", "none")
    with pytest.raises(UsageError, match="environment variable FEASTRAIN_PORT='none'") as caught:
        load_settings()
    assert OLD not in f"{caught.value} {caught.value.__cause__}"


def test_a_client_beyond_its_rate_is_told_when_to_come_again() -> None:
    """429 with Retry-After; another client is not held up, nor are probes."""
    client = client_of(serve_tokens=f"{OLD},{NEW}", rate_limit=0.5, rate_burst=2)
    answers = [client.get("/v1/series", headers=bearer(OLD)) for _ in range(3)]
    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert answers[2].headers["retry-after"] == "2"
    expected = {"error": "too many requests from this client: try again in 2 s"}
    assert expected == answers[2].json()
    assert client.get("/v1/series", headers=bearer(NEW)).status_code == 200
    assert client.get("/healthz/live").status_code == 200


def test_tokens_cannot_be_tried_faster_than_the_rate() -> None:
    """A wrong one counts against the address that it came from, at the form too."""
    client = client_of(serve_tokens=OLD, rate_limit=0.1, rate_burst=2)

    def guess(number: int) -> httpx.Response:
        if number % 2:
            return client.post("/", data={"token": f"wrong-token-{number}"})
        return client.get("/v1/series", headers=bearer(f"wrong-token-{number}"))

    assert [401, 401, 429, 429] == [guess(number).status_code for number in range(4)]


def test_a_bucket_refills_at_its_rate() -> None:
    """At two a second the third of a burst of two waits half a second."""
    buckets = Buckets(rate=2.0, burst=2)
    assert [0.0, 0.0, 0.5] == [buckets.take("a", 10.0) for _ in range(3)]
    assert buckets.take("a", 10.25) == 0.25
    assert buckets.take("a", 10.5) == 0.0
    assert [0.0, 0.0, 0.5] == [buckets.take("a", 99.0) for _ in range(3)]


def test_only_so_many_clients_are_remembered() -> None:
    """Made-up addresses do not fill the memory; who is active stays."""
    buckets = Buckets(rate=0.001, burst=1, most=100)
    buckets.take("busy", 0.0)
    for number in range(1000):
        buckets.take(f"made-up {number}", 0.0)
        assert buckets.take("busy", 0.0) > 0
    assert len(buckets) == 100
