"""``lesion explain``."""

from __future__ import annotations

from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Run, answer, quiet_libraries


def explain(run: Run, json: Json = False, log_json: LogJson = None) -> None:
    """What the critical neurons of a finished study do alone, in pairs, and scaled; adds it to the report."""
    quiet_libraries()
    from lesion.cli.show_explanation import show_explanation
    from lesion.report.html import write_report
    from lesion.study.explain import explain as measure
    from lesion.study.result import Result

    explanation = measure(run, progress=listener(log_json))
    write_report(Result.load(run))
    answer(json, lambda: explanation.model_dump_json(indent=1), lambda console: show_explanation(explanation, console))
