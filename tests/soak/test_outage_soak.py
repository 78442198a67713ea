"""Every kind of job through every kind of outage: each goes on within five seconds of the server's return."""

from __future__ import annotations

import pytest
from outages import BOUND, CASES, OUTAGES, go_through

from support import assert_within


@pytest.mark.parametrize("lasting", [2.0, 9.0, 40.0])
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("case", CASES)
async def test_a_job_goes_on_soon_after_an_outage(tmp_path, case, outage, lasting):
    journals = (tmp_path / f"{number}.journal" for number in range(10))

    async def measure() -> float:
        options = CASES[case] | {"lasting": lasting, "factor": 8.0 if lasting < 5 else 20.0}
        took, _report, _silenced = await go_through(next(journals), outage, **options)
        return took

    await assert_within(BOUND, measure)
