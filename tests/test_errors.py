"""The tree of errors: as it is drawn, picklable, and with all that the next question needs."""

import copy
import pickle
import re

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledgestack_async import errors
from knowledgestack_async.errors import FieldError, KnowledgeStackError, RequestError

REQUEST_ERRORS = [
    kind
    for kind in map(errors.__dict__.get, errors.__all__)
    if isinstance(kind, type) and issubclass(kind, RequestError)
]
PLAIN_ERRORS = [
    errors.KnowledgeStackError,
    errors.ConfigurationError,
    errors.JournalError,
    errors.SessionError,
    errors.WalkError,
]


def drawn_tree():
    """The drawing's names, each with the name above it and the bases in brackets."""
    drawing = errors.__doc__.split("```")[1].strip("\n").splitlines()
    above, found = {}, {}
    for line in drawing:
        depth = re.match(r"[│├└─ ]*", line).end() // 4
        name, bracketed = re.match(r"(\w+)(?: \((\w+)\))?", line.lstrip("│├└─ ")).groups()
        above[depth] = name
        found[name] = (above[depth - 1] if depth else None, bracketed)
    return found


def real_tree():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = {}
    for kind in kinds:
        if issubclass(kind, KnowledgeStackError):
            ours = [base.__name__ for base in kind.__bases__ if base.__module__ == errors.__name__]
            others = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
            is_root = kind is KnowledgeStackError
            found[kind.__name__] = (
                None if is_root else ours[0],
                None if is_root or not others else others[0],
            )
    return found


def test_the_tree_is_the_one_that_is_drawn():
    assert drawn_tree() == real_tree()


def test_the_drawn_statuses_are_those_of_the_classes():
    statuses = dict(re.findall(r"(\w+) +(\d{3}|5xx)\b", errors.__doc__))
    for name, status in statuses.items():
        assert getattr(errors, name).__doc__.startswith(
            status if name != "QuotaExceeded" else "429 for a quota"
        )
    assert len(statuses) == 10


def test_everything_in_the_tree_is_exported():
    assert set(errors.__all__) == set(real_tree()) | {"FieldError"}
    assert errors.__all__ == sorted(errors.__all__)


def test_each_error_is_also_what_python_calls_it():
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.SessionError, RuntimeError)
    assert all(issubclass(kind, KnowledgeStackError) for kind in REQUEST_ERRORS + PLAIN_ERRORS)


TEXTS = st.text(max_size=30)
VALUES = {
    "status": st.none() | st.integers(100, 599),
    "code": st.none() | TEXTS,
    "request_id": st.none() | TEXTS,
    "tries": st.integers(0, 9),
    "safe_to_retry": st.booleans(),
    "retry_after": st.none() | st.floats(0, 1e6),
    "last": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3),
    "json_path": st.none() | TEXTS,
    "fields": st.lists(
        st.builds(FieldError, st.lists(TEXTS | st.integers(), max_size=3).map(tuple), TEXTS, TEXTS),
        max_size=3,
    ).map(tuple),
}


@st.composite
def any_request_error(draw):
    kind = draw(st.sampled_from(REQUEST_ERRORS))
    return kind(**{field.name: draw(VALUES.get(field.name, TEXTS)) for field in attrs.fields(kind)})


@settings(deadline=None)
@given(any_request_error(), st.sampled_from(["pickle", "copy", "deepcopy"]))
def test_an_error_survives_pickling_and_copying_with_all_of_its_fields(error, way):
    error.__notes__ = ["a note"]
    if way == "copy":
        again = copy.copy(error)
    elif way == "deepcopy":
        again = copy.deepcopy(error)
    else:
        again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert attrs.asdict(again) == attrs.asdict(error)
    assert str(again) == str(error)
    assert again.__notes__ == ["a note"]


@pytest.mark.parametrize("kind", PLAIN_ERRORS)
def test_a_plain_error_survives_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("what is wrong")))
    assert type(again) is kind
    assert str(again) == "what is wrong"


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_the_text_answers_the_next_question(kind):
    error = kind(
        "the server is busy",
        "POST",
        "/v1/workflows/w-7",
        status=503,
        code="service_unavailable",
        request_id="req-1",
        tries=3,
        safe_to_retry=False,
        hint="Wait a while.",
    )
    assert str(error) == (
        "POST /v1/workflows/w-7: the server is busy (status 503, code service_unavailable, "
        "request id req-1, 3 tries, not safe to send again). Wait a while."
    )


def test_the_text_leaves_out_what_is_not_known():
    error = RequestError("lost", "GET", "/v1/x", tries=1)
    assert str(error) == "GET /v1/x: lost (1 try, safe to send again)"


def test_errors_can_be_caught_and_compared_by_identity_and_hashed():
    first, second = errors.NotFound("x"), errors.NotFound("x")
    assert first != second
    assert len({first, second}) == 2
    with pytest.raises(errors.ResponseError):
        raise first


def test_a_field_error_says_where_and_what():
    assert str(FieldError(("query", "page", 0), "must be positive")) == (
        "query.page.0: must be positive"
    )


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_every_field_is_attrs_own(kind):
    assert set(vars(kind).get("__annotations__", ())) <= {one.name for one in attrs.fields(kind)}
