"""How the sandbox's service behaves."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, Literal

from attrs import Attribute, define, field

from knowledgestack_async.sandbox.dialects import Dialect, FinishedCancel, RunShape
from knowledgestack_async.sandbox.records import Ingestion

Hidden = AbstractSet[str] | Callable[[Ingestion], bool]


def check_size(_: object, attribute: "Attribute[Any]", size: int | None) -> None:
    """Refuse a page size that no page can have.

    Raises:
        ValueError: It is below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {size}")


def check_hidden(_: object, attribute: "Attribute[Any]", hidden: object) -> None:
    """Refuse what tells of no ingestion whether it is hidden.

    Raises:
        ValueError: It is neither a set nor a function.
    """
    if not (hidden is None or isinstance(hidden, AbstractSet) or callable(hidden)):
        kind = type(hidden).__name__
        raise ValueError(f"{attribute.name} must be a set of ids or a function, not a {kind}")


@define(kw_only=True)
class Settings:
    """How the service behaves; it can be changed while it runs.

    The page sizes and `hidden` are checked when they are changed, too.

    Args:
        dialect: The generation that it speaks.
        run_shape: How it writes runs; None leaves that to the generation.
        api_key: The key that it takes.
        webhook_secret: The runner's secret, which the callback takes too.
        max_page_size: A larger page is refused with a 422.
        honoured_page_size: If set, the page size that is used whatever is asked for.
        page_cap: If set, a page holds no more than this; a larger one asked for is not refused.
            Numbered pages follow each other at that size.
        echoes_cap: Whether the envelope names the size that is used, rather than the one that was
            asked for, where `page_cap` made it smaller.
        hidden: The ids of ingestions, or a function that tells it of each, which the list leaves
            out after it has chosen the page: they count in the total and take up places, so that
            pages are short or empty. Their own routes still know them.
        cancel_finished: Whether cancelling what is finished is a 409 or a 200 without effect; None
            leaves that to the generation.
        delete_running: Whether a RUNNING run can be deleted.
        forget_closed_after: For how many seconds the status route knows a closed workflow; None
            means for ever.
        stale_detail: Whether an ingestion's own route is as stale after a rerun as the list.
    """

    dialect: Dialect
    run_shape: RunShape | None = None
    api_key: str
    webhook_secret: str
    max_page_size: int = field(default=100, validator=check_size)
    honoured_page_size: int | None = field(default=None, validator=check_size)
    page_cap: int | None = field(default=None, validator=check_size)
    echoes_cap: bool = True
    hidden: Hidden | None = field(default=None, validator=check_hidden)
    cancel_finished: FinishedCancel | None = None
    delete_running: Literal["refuse", "allow"] = "refuse"
    forget_closed_after: float | None = None
    stale_detail: bool = False

    @property
    def shape(self) -> RunShape:
        """How runs are written."""
        return self.run_shape or self.dialect.run_shape

    def fit_page(self, asked: int) -> tuple[int, int]:
        """Return the size that a page has, and the one that its envelope names."""
        named = self.honoured_page_size or asked
        size = named if self.page_cap is None else min(named, self.page_cap)
        return size, size if self.echoes_cap else named

    def hides(self, ingestion: Ingestion) -> bool:
        """Tell whether the list leaves an ingestion out."""
        if self.hidden is None:
            return False
        if callable(self.hidden):
            return self.hidden(ingestion)
        return ingestion.workflow_id in self.hidden

    @property
    def refuses_finished(self) -> bool:
        """Whether cancelling what is finished is a 409."""
        return (self.cancel_finished or self.dialect.cancel_finished) == "conflict"
