"""``python -m knowledgestack_async.cli``: the command ``ks-async``."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
