"""What a request is and what an answer means: ids, URLs, credentials, waits, errors, readers."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf
from urllib.parse import unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from wire_examples import NUMBERED, OFFSET, RUN, STATUS, SUMMARY
from yarl import URL

import knowledgestack_async as ks
from knowledgestack_async import errors
from knowledgestack_async._codec import DecodeError
from knowledgestack_async._dialects import GENERATIONS, Route
from knowledgestack_async._responses import (
    is_quota_refusal,
    read_bulk_answer,
    read_retry_after,
    response_error,
)
from knowledgestack_async._wire import (
    Answer,
    Misdelivered,
    Secret,
    check_base_url,
    check_credential,
    check_id,
    excerpt,
    list_reader,
    model_reader,
    route_target,
    seal,
)

DOCUMENTED, OFFSETS, UNFILTERED, SYSTEM_JOBS = GENERATIONS
FACTS = {"method": "GET", "path": "/v1/x", "tries": 2}
WALL_CLOCK = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()


def answer(status=200, body=b"", **headers):
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Answer(status, named, body if isinstance(body, bytes) else json.dumps(body).encode())


# Ids

ODD_TEXTS = st.text(min_size=1) | st.text(
    st.sampled_from("./\\%2Ff?#&=+;:@ \x00\x1f\x7f\x85é\u2028\U0001f600\ud800a"), min_size=1
)


def is_dangerous(text):
    return (
        text in {"", ".", ".."}
        or "/" in text
        or "\\" in text
        or any(
            char < " " or "\x7f" <= char < "\xa0" or 0xD800 <= ord(char) < 0xE000 for char in text
        )
    )


@settings(deadline=None)
@given(ODD_TEXTS)
@example("document_versions")
@example("%2F..%2f")
@example("a?b#c")
@example("%2e%2e")
@example("...")
def test_an_id_is_exactly_one_segment_of_the_path_or_refused(text):
    if is_dangerous(text):
        with pytest.raises(ks.ConfigurationError):
            check_id(text)
        return
    target = route_target(Route.INGESTION, check_id(text))(DOCUMENTED)
    *above, segment = target.path.split("/")
    assert above == ["", "v1", "workflows", "document_versions"]
    assert unquote(segment) == text
    assert not set(segment) & set("?#/\\ ")
    url = URL("https://host" + target.path)
    assert url.parts[1:] == ("v1", "workflows", "document_versions", text)
    assert str(url).startswith("https://host/v1/workflows/document_versions/")
    assert not url.query_string
    assert not url.fragment


ROUTES = "could reach another route: '.', '..', slashes and backslashes are refused"
CONTROLS = "has control characters in it"
HALVES = "has half a character in it (a lone surrogate)"


@pytest.mark.parametrize(
    ("text", "shown", "problem"),
    [
        ("", "", "is empty"),
        (".", ".", ROUTES),
        ("..", "..", ROUTES),
        ("a/b", "a/b", ROUTES),
        ("/", "/", ROUTES),
        ("\\", "\\", ROUTES),
        ("a\\b", "a\\b", ROUTES),
        ("a\nb", "a\\nb", CONTROLS),
        ("\x00", "\\x00", CONTROLS),
        ("\x1f", "\\x1f", CONTROLS),
        ("\x7f", "\\x7f", CONTROLS),
        ("\x80", "\\x80", CONTROLS),
        ("\x9f", "\\x9f", CONTROLS),
        ("a\ud800", "a\\ud800", HALVES),
        ("\udfff", "\\udfff", HALVES),
    ],
)
@pytest.mark.parametrize("what", ["workflow_id", "run_id"])
def test_an_id_that_could_reach_another_route_is_refused(text, shown, problem, what):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_id(text, what)
    assert str(caught.value) == f"{what} '{shown}' {problem}"


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, "NoneType"), (5, "int"), (b"w-1", "bytes"), (["w-1"], "list"), (True, "bool")],
)
def test_an_id_of_another_type_is_refused(value, name):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_id(value)
    assert str(caught.value) == f"workflow_id must be a str or UUID, not {name}"


def test_a_uuid_is_taken_as_its_text():
    text = "0f4a2c1e-8f4a-4f0e-9f60-0a5f3c1d2e3f"
    assert check_id(UUID(text)) == check_id(text) == text


def test_a_boundary_character_is_no_control_character():
    assert check_id("\xa0 ~\ud7ff\ue000") == "\xa0 ~\ud7ff\ue000"


def test_the_id_of_the_list_route_is_refused_where_it_would_reach_it():
    with pytest.raises(ks.ConfigurationError) as caught:
        route_target(Route.WORKFLOW, "document_versions")
    assert str(caught.value) == (
        "workflow_id 'document_versions' would reach the list of ingestions instead"
    )
    target = route_target(Route.INGESTION, "document_versions")(SYSTEM_JOBS)
    assert target.path == "/v1/system-jobs/document_versions/document_versions"


def test_the_id_of_the_bulk_rerun_is_refused_where_it_would_reach_it():
    with pytest.raises(ks.ConfigurationError) as caught:
        route_target(Route.INGESTION, "bulk-rerun")
    assert str(caught.value) == "workflow_id 'bulk-rerun' would reach the bulk rerun instead"
    assert route_target(Route.WORKFLOW, "bulk-rerun")(SYSTEM_JOBS).path.endswith("/bulk-rerun")


def test_a_target_quotes_all_that_means_something_in_a_url():
    target = route_target(Route.RUN_CALLBACK, "a/b?c#d%2F e")(SYSTEM_JOBS)
    assert target.path == "/v1/workflow-runs/a%2Fb%3Fc%23d%252F%20e/callback"


def test_a_long_id_is_shown_in_part():
    with pytest.raises(ks.ConfigurationError) as caught:
        check_id("x/" * 5_000)
    assert len(str(caught.value)) < 400


# Base URLs and credentials


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com:8443/ks/v2/", "https://api.example.com:8443/ks/v2"),
        ("HTTPS://api.example.com", "https://api.example.com"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://ks.localhost", "http://ks.localhost"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://bücher.example/X", "https://xn--bcher-kva.example/X"),
        ("https://xn--bcher-kva.example/X", "https://xn--bcher-kva.example/X"),
        ("https://host/ä%2Fb", "https://host/%C3%A4%2Fb"),
    ],
)
def test_a_sound_base_url_is_taken(text, kept):
    assert check_base_url(seal(text), allow_plain_http=False) == kept


LOOKS = "it must look like https://host or https://host/prefix"
SPACES = "it has spaces or control characters in it"
USER = "it must not hold a user or password; the key is given as api_key"
QUERY = "it must not hold a query or fragment"
DOTS = "its path must not hold '.' or '..'"
PLAIN = "plain http would show the key on the way; use https, or allow_plain_http=True"


@pytest.mark.parametrize(
    ("text", "shown", "problem"),
    [
        ("https://", "https://", LOOKS),
        ("file:///etc/passwd", "file:///etc/passwd", LOOKS),
        ("ftp://host", "ftp://host", LOOKS),
        ("https://host/a b", "https://host/a b", SPACES),
        ("https://host\n", "https://host\\n", SPACES),
        ("https://host/\x00", "https://host/\\x00", SPACES),
        ("https://host/\x1f", "https://host/\\x1f", SPACES),
        ("https://host/\x7f", "https://host/\\x7f", SPACES),
        ("https://host/\x85", "https://host/\\x85", SPACES),
        ("https://host\u200b", "https://host\\u200b", SPACES),
        ("https://host/\ud800", "https://host/\\ud800", SPACES),
        ("https://ada:canary@host", "host", USER),
        ("https://canary@host", "host", USER),
        ("https://ada:can@ary@host/a?b?c", "host/a", USER),
        ("https://:@host", "host", USER),
        ("https://host?canary=1", "https://host", QUERY),
        ("https://host?", "https://host", QUERY),
        ("https://host#", "https://host#", QUERY),
        ("https://host/#top", "https://host/#top", QUERY),
        ("https://host/a/../b", "https://host/a/../b", DOTS),
        ("https://host/.", "https://host/.", DOTS),
        ("https://host:99999", "https://host:99999", "Port out of range 0-65535"),
        ("http://api.example.com", "http://api.example.com", PLAIN),
        ("http://127.0.0.1.example.com", "http://127.0.0.1.example.com", PLAIN),
        ("http://localhost.example.com", "http://localhost.example.com", PLAIN),
        ("http://notlocalhost", "http://notlocalhost", PLAIN),
        ("http://10.0.0.1", "http://10.0.0.1", PLAIN),
    ],
)
def test_another_base_url_is_refused(text, shown, problem):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_base_url(seal(text), allow_plain_http=False)
    assert str(caught.value) == f"base_url ('{shown}'): {problem}"


@pytest.mark.parametrize("text", ["", "api.example.com", "//api.example.com", "sk-user-canary"])
def test_what_may_be_a_key_in_the_urls_place_is_not_shown(text):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_base_url(seal(text), allow_plain_http=False)
    assert str(caught.value) == f"base_url: {LOOKS}"


@pytest.mark.parametrize("given", [None, 5, b"https://host", ["https://host"]])
def test_a_base_url_of_another_type_is_refused(given):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_base_url(seal(given), allow_plain_http=False)
    assert str(caught.value) == f"base_url must be a str, not {type(given).__name__}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [("https://host:abc", "Port could not be cast"), ("https://[::1", "Invalid IPv6")],
)
def test_a_base_url_that_is_none_is_refused_in_pythons_words(text, problem):
    with pytest.raises(ks.ConfigurationError, match=rf"^base_url \('.*'\): {problem}"):
        check_base_url(seal(text), allow_plain_http=False)


def test_plain_http_is_allowed_where_asked_for():
    assert check_base_url(seal("http://10.0.0.1"), allow_plain_http=True) == "http://10.0.0.1"


def test_a_credential_is_one_word_of_plain_ascii():
    assert check_credential(seal("sk-user-1")).reveal() == "sk-user-1"
    assert check_credential(seal("!~")).reveal() == "!~"


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "a\r\nX-Evil: 1", "\ta", "clé", "a\x7f", "\ud800"]
)
def test_what_no_header_takes_is_no_credential(value):
    with pytest.raises(ks.ConfigurationError) as caught:
        check_credential(seal(value), "token")
    assert str(caught.value) == (
        "token must be one word of plain ASCII (a key looks like sk-user-...); "
        "is there a space or a line break in it?"
    )


def test_a_credential_of_another_type_is_refused():
    with pytest.raises(ks.ConfigurationError, match="api_key must be a str, not bytes"):
        check_credential(b"canary")


def test_a_secret_shows_itself_nowhere():
    secret = Secret("canary")
    assert f"{secret!r} {secret}" == "Secret(***) Secret(***)"
    assert secret.hide_in(b"the key canary is wrong: canary") == (
        b"the key [secret] is wrong: [secret]"
    )
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^a credential is not pickled$"):
            way(secret)
    assert not hasattr(secret, "__dict__")


def test_a_secret_tells_whether_there_is_one():
    assert Secret("canary")
    assert not Secret("")


def test_only_a_text_is_sealed():
    def source():
        return "canary"

    assert seal(source) is source
    assert seal(None) is None


def test_an_answer_shows_neither_headers_nor_body():
    assert "canary" not in repr(answer(200, b"canary", x="canary"))


# Excerpts


@settings(deadline=None)
@given(st.text(), st.integers(1, 50))
def test_an_excerpt_is_short_and_harmless(text, length):
    shown = excerpt(text, length)
    assert len(shown) <= length
    assert shown.isprintable()
    if text.isprintable() and len(text) <= length:
        assert shown == text


def test_an_excerpt_escapes_and_cuts():
    assert excerpt("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"
    assert excerpt("x" * 201) == "x" * 199 + "…"
    assert excerpt("x" * 200) == "x" * 200


# Retry-After


def at(seconds):
    return format_datetime(datetime.fromtimestamp(WALL_CLOCK + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 7.5 ", 7.5),
        ("7.", 7.0),
        ("1e3", None),
        (".5", None),
        ("+2", None),
        ("1_0", None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("soon", None),
        ("Fri, 99 May 2026 10:00:00 GMT", None),
        ("Fri, 01 May 99999999999 10:00:00 GMT", None),
        (at(90), 90.0),
        (at(0), 0.0),
        (at(-90), 0.0),
    ],
)
def test_retry_after_is_read_from_seconds_or_a_date(text, seconds):
    assert read_retry_after({"Retry-After": text}, WALL_CLOCK) == seconds


def test_no_retry_after_says_nothing():
    assert read_retry_after({}, WALL_CLOCK) is None


@settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_a_date_is_read_against_the_answers_own(clock_error, seconds):
    headers = {"Retry-After": at(seconds), "Date": at(0)}
    assert read_retry_after(headers, WALL_CLOCK + clock_error) == seconds


def test_a_date_is_read_against_our_clock_where_the_answers_is_garbage():
    headers = {"Retry-After": at(60), "Date": "garbage"}
    assert read_retry_after(headers, WALL_CLOCK + 20) == 40


@settings(deadline=None)
@given(st.text())
@example("0\x1f")
@example("\t7 ")
def test_retry_after_is_never_negative_nor_endless(text):
    seconds = read_retry_after({"Retry-After": text}, WALL_CLOCK)
    assert seconds is None or 0 <= seconds < inf


# Errors

KINDS = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    402: errors.ResponseError,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    418: errors.ResponseError,
    422: errors.UnprocessableEntity,
    429: errors.TooManyRequests,
    500: errors.ServerError,
    502: errors.ServerError,
    503: errors.ServiceUnavailable,
    504: errors.ServerError,
    599: errors.ServerError,
}


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_each_status_is_its_error_in_the_first_generations_form(status, kind):
    error = response_error(answer(status, {"detail": "that is\nwrong"}), None, **FACTS)
    assert type(error) is kind
    assert (error.message, error.status, error.code) == ("that is\\nwrong", status, None)
    assert (error.method, error.path, error.tries) == ("GET", "/v1/x", 2)
    assert error.request_id is None


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_each_status_is_its_error_in_the_current_generations_form(status, kind):
    body = {"detail": "no", "code": "some_code", "request_id": "in-body"}
    error = response_error(answer(status, body, x_request_id="in-header"), 3.5, **FACTS)
    assert type(error) is kind
    assert (error.code, error.request_id) == ("some_code", "in-header")
    assert getattr(error, "retry_after", 3.5) == 3.5
    assert response_error(answer(status, body), None, **FACTS).request_id == "in-body"


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "The server says above what is wrong with the request."),
        (
            401,
            "Check the key or token that was given, else KS_API_KEY, and that it is for this base URL.",
        ),
        (403, "This key may not do that; ask for the right, or use another key."),
        (404, "Check the id, and that the key may see it."),
        (409, "Read its state first: what it is in doesn't allow this."),
        (418, ""),
        (422, "The server names the fields above."),
        (429, "Slow down: lower max_in_flight or rate."),
        (499, ""),
        (500, "The server failed; try again later, and tell its support the request id."),
        (501, "The server failed; try again later, and tell its support the request id."),
        (503, "The server is busy; try again in a moment."),
        (504, "The server failed; try again later, and tell its support the request id."),
    ],
)
def test_an_error_says_what_to_do(status, hint):
    assert response_error(answer(status, {"detail": "no"}), None, **FACTS).hint == hint


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_tells_what_was_asked_for(status):
    error = response_error(answer(status, {"detail": "busy"}), 12.5, **FACTS)
    assert (error.message, error.retry_after) == ("busy", 12.5)
    error = response_error(answer(status, b"<h1>busy</h1>"), None, **FACTS)
    assert (error.message, error.retry_after) == ("<h1>busy</h1>", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no explanation"),
        (b"<html>\n502</html>", "<html>\\n502</html>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[1, 2]", "[1, 2]"),
        (b'"text"', '"text"'),
        (b'{"detail": ""}', '{"detail": ""}'),
        (b'{"detail": {"a": 1}}', '{"detail": {"a": 1}}'),
        (b"x" * 10_000, "x" * 199 + "…"),
        (("\U0001f600" * 200).encode(), "\U0001f600" * 200),
        (("\U0001f600" * 201).encode(), "\U0001f600" * 199 + "…"),
        (b'{"detail": "' + b"y" * 10_000 + b'"}', "y" * 199 + "…"),
        (b"[" * 200_000, "[" * 199 + "…"),
    ],
)
def test_an_odd_error_body_is_shown_in_part(body, message):
    error = response_error(answer(500, body), None, **FACTS)
    assert error.message == message


def test_odd_types_in_an_error_body_do_no_harm():
    body = {"detail": "no", "code": 7, "request_id": ["x"]}
    error = response_error(answer(400, body), None, **FACTS)
    assert (error.code, error.request_id, error.message) == (None, None, "no")


def test_what_the_server_names_itself_is_cut_and_escaped():
    body = {"detail": "no", "code": "c" * 300, "request_id": "r\n"}
    error = response_error(answer(400, body), None, **FACTS)
    assert error.code == "c" * 199 + "…"
    assert error.request_id == "r\\n"


def test_a_list_of_fields_is_read():
    detail = [
        {"loc": ["query", "page", 0], "msg": "must be positive", "type": "value_error", "ctx": 1},
        {"loc": "page", "msg": None},
        "not an object",
        {"loc": ["a\nb", True, {}], "msg": "m" * 300, "type": 3},
    ]
    error = response_error(answer(422, {"detail": detail}), None, **FACTS)
    assert error.fields == (
        errors.FieldError(("query", "page", 0), "must be positive", "value_error"),
        errors.FieldError((), "None", ""),
        errors.FieldError((), "", ""),
        errors.FieldError(("a\\nb", True, "{}"), "m" * 199 + "…", "3"),
    )
    assert error.message.startswith("query.page.0: must be positive; : None")
    assert len(error.message) == 200


@pytest.mark.parametrize(
    ("detail", "message"), [("no", "no"), ([], '{"detail": []}'), (None, '{"detail": null}')]
)
def test_a_422_without_a_list_has_its_text(detail, message):
    error = response_error(answer(422, {"detail": detail}), None, **FACTS)
    assert (error.fields, error.message) == ((), message)


def test_a_quota_refusal_is_told_from_a_busy_server():
    quota = answer(429, {"detail": "used up", "code": "quota_exceeded"})
    error = response_error(quota, 9.0, **FACTS)
    assert type(error) is errors.QuotaExceeded
    assert error.retry_after == 9.0
    assert error.hint == "A quota is used up; waiting a little doesn't help."
    assert is_quota_refusal(quota)
    assert not is_quota_refusal(answer(429, {"code": "too_many_requests"}))
    assert not is_quota_refusal(answer(429, b"garbage"))
    assert not is_quota_refusal(answer(503, {"code": "quota_exceeded"}))
    conflict = response_error(answer(409, {"code": "quota_exceeded"}), None, **FACTS)
    assert type(conflict) is errors.Conflict


def test_an_answer_tells_its_request_id():
    assert answer(x_request_id="r-1").request_id == "r-1"
    assert answer(x_request_id="").request_id is None
    assert answer().request_id is None
    assert answer(x_request_id="r" * 300).request_id == "r" * 199 + "…"


def test_nothing_is_dropped_where_there_is_nothing_to_drop():
    assert answer().discard() is None


# Readers


@pytest.mark.parametrize(
    ("model", "wire", "echo", "expected"),
    [
        (ks.WorkflowRunResponse, RUN, "id", RUN["id"]),
        (ks.WorkflowRunResponse, RUN, "id", RUN["id"].upper()),
        (ks.WorkflowStatusResponse, STATUS, "workflow_id", "ingest-01J"),
    ],
)
def test_an_answer_about_what_was_asked_is_read(model, wire, echo, expected):
    read = model_reader(model, echo=echo, expected=expected)
    assert read(answer(200, wire), DOCUMENTED).raw == wire


def test_an_answer_about_something_else_is_misdelivered():
    read = model_reader(ks.WorkflowStatusResponse, echo="workflow_id", expected="w-2")
    with pytest.raises(Misdelivered, match="asked about w-2, answered about ingest-01J"):
        read(answer(200, STATUS), DOCUMENTED)


def test_an_answer_that_echoes_nothing_is_read_as_it_is():
    read = model_reader(ks.WorkflowCallbackResponse)
    assert read(answer(200, {"status": "ok"}), DOCUMENTED).status == "ok"
    with pytest.raises(DecodeError):
        read(answer(200, b"ok"), DOCUMENTED)


def listed(**envelope):
    return answer(200, {"items": [SUMMARY], **envelope})


@pytest.mark.parametrize(
    ("dialect", "start", "envelope"),
    [
        (DOCUMENTED, 0, NUMBERED),
        (DOCUMENTED, 0, {**NUMBERED, "total": 0}),
        (DOCUMENTED, 40, {**NUMBERED, "page": 3}),
        (DOCUMENTED, 40, {**NUMBERED, "page": 3, "page_size": 5}),
        (OFFSETS, 40, {**OFFSET, "offset": 40}),
        (UNFILTERED, 40, {**OFFSET, "offset": 40, "limit": 7}),
        (SYSTEM_JOBS, 40, {**OFFSET, "offset": 40, "limit": 7}),
        # A server of another generation ignores what it doesn't know: no stray answer, that.
        (DOCUMENTED, 40, OFFSET),
        (OFFSETS, 40, NUMBERED),
    ],
)
def test_the_page_that_was_asked_for_is_read(dialect, start, envelope):
    page = list_reader(start, 20)(listed(**envelope), dialect)
    assert len(page.items) == 1


@pytest.mark.parametrize(
    ("dialect", "start", "envelope", "asked", "found"),
    [
        (DOCUMENTED, 40, NUMBERED, 3, 1),
        (DOCUMENTED, 0, {**NUMBERED, "page": 2}, 1, 2),
        (OFFSETS, 40, OFFSET, 40, 0),
        (UNFILTERED, 0, {**OFFSET, "offset": 20}, 0, 20),
        (SYSTEM_JOBS, 0, {**OFFSET, "offset": 20}, 0, 20),
    ],
)
def test_another_page_is_misdelivered(dialect, start, envelope, asked, found):
    with pytest.raises(Misdelivered) as caught:
        list_reader(start, 20)(listed(**envelope), dialect)
    assert str(caught.value) == f"asked for the page at {asked}, got the one at {found}"


@pytest.mark.parametrize(
    "envelope",
    [
        {"total": 1},
        {"total": 1, "page": 1},
        {"total": 1, "limit": 5},
        {"total": 1, "page": 0, "page_size": 20},
        {"total": 1, "page": 1, "page_size": 0},
        {"total": 1, "limit": 0, "offset": 0},
        {"total": 1, "limit": 20, "offset": -1},
        {"total": -1, "page": 1, "page_size": 20},
    ],
)
def test_an_envelope_that_makes_no_sense_is_an_error(envelope):
    with pytest.raises(DecodeError) as caught:
        list_reader(0, 20)(listed(**envelope), DOCUMENTED)
    assert caught.value.path == "$"
    assert caught.value.reason == "the envelope doesn't say which page of how many items it is"


def test_a_bulk_answer_tells_what_was_taken_and_why_the_rest_was_not():
    body = {
        "succeeded": ["v-1", "v-2"],
        "failed": [{"id": "v-3", "reason": "super\nseded"}, {"id": "v-4"}],
    }
    assert read_bulk_answer(answer(200, body), SYSTEM_JOBS) == (
        {"v-1", "v-2"},
        {"v-3": "super\\nseded", "v-4": "None"},
    )


@pytest.mark.parametrize(
    "body", [[], {}, {"succeeded": []}, {"failed": []}, {"succeeded": {}, "failed": []}, "ok"]
)
def test_a_bulk_answer_of_another_form_is_an_error(body):
    with pytest.raises(DecodeError) as caught:
        read_bulk_answer(answer(200, body), SYSTEM_JOBS)
    assert caught.value.path == "$"
    assert caught.value.reason == "a bulk rerun answers what succeeded and what failed"


def test_a_prefix_and_a_path_make_one_url():
    base = check_base_url(seal("https://host/ks/"), allow_plain_http=False)
    target = route_target(Route.RUN_CALLBACK, "a b")(SYSTEM_JOBS)
    assert urlsplit(base + target.path).path == "/ks/v1/workflow-runs/a%20b/callback"


def test_a_date_with_another_zone_is_read_right():
    text = format_datetime(datetime.fromtimestamp(WALL_CLOCK, UTC) + timedelta(seconds=30))
    shifted = text.replace("+0000", "-0100")
    assert read_retry_after({"Retry-After": shifted}, WALL_CLOCK) == 3630
