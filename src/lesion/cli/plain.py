"""A terminal shows what a model, a file or a result says, and does not obey it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from lesion.core.errors import printable


class Plain(RenderHook):
    """Marks characters that steer a terminal (its title, its colours, the direction of text) in whatever a console prints."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(self._console, part) for part in renderables]


class _Shown:
    def __init__(self, console: Console, part: ConsoleRenderable) -> None:
        self._console, self._part = console, part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._part, options):
            lines = "\n".join(map(printable, segment.text.split("\n")))
            yield segment if segment.control else Segment(lines, segment.style)


def plain_console() -> Console:
    """A console for texts that anyone may have written."""
    console = Console()
    console.push_render_hook(Plain(console))
    return console
