"""What tests share: real servers on free ports, and a raw Gearman client."""

import pytest

# failures show the values; ahead of every import of these modules, plugins included
pytest.register_assert_rewrite(
    *(
        f"support.{name}"
        for name in ("foreign", "job_servers", "lanes", "membership", "store", "trial", "wire")
    )
)
