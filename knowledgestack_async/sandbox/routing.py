"""Which route a request reaches, after the rules of the service's own router."""

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote

from attrs import frozen

from knowledgestack_async.sandbox.dialects import DIALECTS, Dialect

RouteName = Literal[
    "list_ingestion_workflows",
    "get_ingestion_workflow",
    "rerun_ingestion_workflow",
    "bulk_rerun_ingestions",
    "get_workflow_status",
    "cancel_workflow",
    "get_workflow_run",
    "delete_workflow_run",
    "send_workflow_run_callback",
    "no_route",
    "wrong_method",
]


@frozen
class Route:
    """A route: its name, its method, and the pattern of its path."""

    name: RouteName
    method: str
    pattern: re.Pattern[str]


def _make_routes(dialect: Dialect) -> Sequence[Route]:
    versions, one = f"{dialect.prefix}/document_versions", "/([^/]+)"
    table: list[tuple[RouteName, str, str]] = [
        ("list_ingestion_workflows", "GET", versions),
        ("get_ingestion_workflow", "GET", versions + one),
        ("rerun_ingestion_workflow", "POST", versions + one),
        ("get_workflow_status", "GET", dialect.prefix + one),
        ("cancel_workflow", "DELETE", dialect.prefix + one),
        ("get_workflow_run", "GET", "/v1/workflow-runs" + one),
        ("delete_workflow_run", "DELETE", "/v1/workflow-runs" + one),
        ("send_workflow_run_callback", "POST", f"/v1/workflow-runs{one}/callback"),
    ]
    bulk = f"{versions}/bulk-rerun"
    if dialect.rich:
        table.insert(0, ("bulk_rerun_ingestions", "POST", bulk))
    elif dialect.name == "system-jobs-unfiltered":
        # Without this, the path would reach the single rerun of a workflow of that name, and be a 404
        # with other words: a client must not tell from the words that the route is not there.
        table.insert(0, ("no_route", "POST", bulk))
    return [Route(name, method, re.compile(path)) for name, method, path in table]


_ROUTES = MappingProxyType({name: _make_routes(dialect) for name, dialect in DIALECTS.items()})


def find_route(dialect: Dialect, method: str, path: str) -> tuple[RouteName, str | None]:
    """Tell which route a request reaches.

    Args:
        dialect: Whose routes.
        method: The request's method.
        path: Its path as it was sent; it is unquoted before it is routed, slashes included.

    Returns:
        The route's name and the id in the path. Where no route fits that is ``no_route``, where
        only the method doesn't, ``wrong_method``.
    """
    decoded = unquote(path)
    reached: RouteName = "no_route"
    for route in _ROUTES[dialect.name]:
        match = route.pattern.fullmatch(decoded)
        if match is not None:
            if route.method == method:
                return route.name, match[1] if match.re.groups else None
            reached = "wrong_method"
    return reached, None
