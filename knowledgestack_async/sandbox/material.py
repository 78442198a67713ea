"""What the sandbox makes up, all of it from its seed: ids, names, errors, and how runs go."""

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from knowledgestack_async.sandbox.records import Stage, User

SECOND = 1_000_000
_SUBJECTS = ("invoice", "contract", "report", "manual", "minutes", "policy", "résumé", "offer")
_TOPICS = ("north", "harbour", "payroll", "safety", "audit", "tender", "orchard", "turbine")
_ENDINGS = ("pdf", "docx", "xlsx", "pptx", "md", "html")
_PEOPLE = (("Ada", "Okafor"), ("Jun", "Sato"), ("Lea", None), (None, None), ("Omar", "Haddad"))
_ERRORS = (
    "Could not read page {small} of {uuid}: the file ends early",
    "Embedding service answered 503 for chunk {large} after {small} tries",
    "Timeout after {large} s while converting s3://documents/{uuid}/source",
    "Document {uuid} is protected by a password",
    "Worker worker-{small} was lost while it wrote chunk {large}",
    "Table on page {small} has more columns than the {large} that are allowed",
)
_ENGINE_WORDS: Mapping[str, str] = MappingProxyType(
    {"cancelled": "CANCELED", "failed": "FAILED", "quota_limit": "FAILED"}
)
_STEPS = ("Converting the document", "Splitting into chunks", "Embedding the chunks", "Indexing")


def make_uuid(draws: Random) -> str:
    """Return a random UUID, as text."""
    return as_uuid(draws.randbytes(16).hex())


def as_uuid(digits: str) -> str:
    """Return 32 hexadecimal digits as the text of a UUID."""
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def make_workflow_id(digits: str) -> str:
    """Return 32 hexadecimal digits as an id such as an upload gets: opaque, and no UUID."""
    return "ingest-01J" + digits[:23].upper()


def make_document_name(draws: Random, number: int) -> str:
    """Return a file name that no other number has."""
    subject, topic, ending = (draws.choice(words) for words in (_SUBJECTS, _TOPICS, _ENDINGS))
    return f"{subject}-{topic}-{number:05d}.{ending}"


def engine_word(status: str) -> str:
    """Return the engine's word for a run that ended with this pipeline status."""
    return _ENGINE_WORDS.get(status, "COMPLETED")


def make_people(draws: Random) -> Sequence[User]:
    """Return the handful of users of this sandbox; some have no full name."""
    return [User(make_uuid(draws), first, last) for first, last in _PEOPLE]


def make_error(draws: Random) -> str:
    """Return why an ingestion failed, with ids and numbers in it as real ones have."""
    return draws.choice(_ERRORS).format(
        small=draws.randint(1, 40), large=draws.randint(41, 900), uuid=make_uuid(draws)
    )


def plan_run(
    draws: Random, outcomes: Mapping[str, float], seconds: tuple[float, float]
) -> tuple[Stage, ...]:
    """Draw how a pipeline run goes: pending for a while, processing in steps, an outcome.

    Args:
        draws: Where randomness comes from.
        outcomes: The weight of each final status.
        seconds: The shortest and the longest that the whole run takes.

    Returns:
        The stages in order; the first is due at once.
    """
    length = int(draws.uniform(*seconds) * SECOND)
    outcome = draws.choices(list(outcomes), list(outcomes.values()))[0]
    chunks = draws.randint(8, 400)
    done = len(_STEPS) if outcome == "completed" else draws.randint(1, len(_STEPS))
    waits = (0.2, 0.4, 0.55, 0.85)
    stages = [Stage(0, "pending", "Queued")]
    stages += [
        Stage(int(length * wait), "processing", step, chunks * number // len(_STEPS))
        for number, (wait, step) in enumerate(zip(waits[:done], _STEPS[:done], strict=True))
    ]
    final = "Finished" if outcome == "completed" else stages[-1].last_activity
    reached = chunks if outcome == "completed" else stages[-1].chunks
    stages.append(Stage(length, outcome, final, reached, explain(draws, outcome)))
    return tuple(stages)


def explain(draws: Random, status: str) -> str | None:
    """Return the error text that belongs to a pipeline status, if one does."""
    if status == "failed":
        return make_error(draws)
    if status == "quota_limit":
        return f"The monthly quota of {draws.randint(1, 9)},000 pages is used up"
    return None


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divide a number by shares exactly, the largest remainders rounded up.

    Args:
        total: What to divide.
        shares: The weight of each name; they need not add up to 1.

    Returns:
        How many each name gets; together they are the total.

    Raises:
        ValueError: No weight is positive, or one is negative.
    """
    whole = sum(shares.values())
    if whole <= 0 or min(shares.values()) < 0:
        raise ValueError(f"shares must be positive, but they are {dict(shares)}")
    exact = {name: total * share / whole for name, share in shares.items()}
    counts = {name: int(amount) for name, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
