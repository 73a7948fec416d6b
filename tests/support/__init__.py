"""What tests share: real servers on free ports, and a raw Gearman client."""

import pytest

pytest.register_assert_rewrite("support.job_servers", "support.wire")  # failures show the values
