"""Whether what the tests run is traced, which makes it compute several times as long.

``scripts/test --coverage`` traces the tests' own process and, through an environment variable that
coverage.py sets for processes to come, the workers that they start.
"""

from __future__ import annotations

import os

IS_TRACED = "COVERAGE_PROCESS_CONFIG" in os.environ
