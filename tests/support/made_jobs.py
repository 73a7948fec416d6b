"""Jobs of receivers without a connection, for tests of what answers them."""

from __future__ import annotations

from gearhorn.gearman.worker import Job


class Made(Job):
    """A job that notes its answers. ``is_lost``: its connection has ended."""

    def __init__(
        self,
        function: bytes,
        arguments: bytes,
        *,
        unique: bytes = b"",
        oversized: bool = False,
        is_lost: bool = False,
    ) -> None:
        self.function, self.unique, self.arguments = function, unique, arguments
        self.oversized = oversized
        self.answers: list[bytes | str] = []
        self._is_lost = is_lost

    @property
    def is_lost(self) -> bool:
        return self._is_lost

    def complete(self, data: bytes = b"") -> None:
        self.answers.append(data)

    def fail(self, text: str | bytes = b"") -> None:
        assert isinstance(text, str)
        self.answers.append(text)
