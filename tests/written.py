"""Read embedded files line by line: `flowspan.read` shows a span once that was written twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def written_spans(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield each span in the files of a folder, in OTLP JSON, as often as it was written."""
    for path in sorted(folder.glob("traces*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found = json.loads(line)["resourceSpans"]
            except ValueError:  # a process was killed as it wrote the line
                continue
            for resource in found:
                for scope in resource["scopeSpans"]:
                    yield from scope["spans"]


def doubled(folder: Path) -> list[str]:
    """Return a line for each span that was written more than once."""
    spans = {span["spanId"]: span for span in written_spans(folder)}
    times = Counter(span["spanId"] for span in written_spans(folder))
    return [f"{spans[i]['name']}: written {n} times" for i, n in times.items() if n > 1]
