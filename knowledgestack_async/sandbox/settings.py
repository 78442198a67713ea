"""How the sandbox's service behaves."""

from typing import Literal

from attrs import define

from knowledgestack_async.sandbox.dialects import Dialect, FinishedCancel, RunShape


@define(kw_only=True)
class Settings:
    """How the service behaves; it can be changed while it runs.

    Args:
        dialect: The generation that it speaks.
        run_shape: How it writes runs; None leaves that to the generation.
        api_key: The key that it takes.
        webhook_secret: The runner's secret, which the callback takes too.
        max_page_size: A larger page is refused with a 422.
        honoured_page_size: If set, the page size that is used whatever is asked for.
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
    max_page_size: int = 100
    honoured_page_size: int | None = None
    cancel_finished: FinishedCancel | None = None
    delete_running: Literal["refuse", "allow"] = "refuse"
    forget_closed_after: float | None = None
    stale_detail: bool = False

    @property
    def shape(self) -> RunShape:
        """How runs are written."""
        return self.run_shape or self.dialect.run_shape

    @property
    def refuses_finished(self) -> bool:
        """Whether cancelling what is finished is a 409."""
        return (self.cancel_finished or self.dialect.cancel_finished) == "conflict"
