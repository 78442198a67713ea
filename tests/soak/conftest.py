"""Takes long, so it is run by ``nox -s soak`` (which sets KS_SOAK) and not by a plain ``pytest``."""

import os

collect_ignore_glob = [] if "KS_SOAK" in os.environ else ["test_*.py"]
