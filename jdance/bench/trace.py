"""Records traces by jax.profiler, and sums the time of each operation."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

# "%fusion.3 = f32[8]{0} fusion(...), ..., metadata={op_name="jit(f)/net/conv/dot_general" ...}"
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"')


class Operation(NamedTuple):
    """An instruction of the compiled program.

    Attributes:
        name: name in the compiled program.
        source: path in the network, or empty if unknown.
        seconds: self time over all calls, without nested operations.
        calls: number of calls.
    """

    name: str
    source: str
    seconds: float
    calls: int


def record(folder: Path, run: Callable[[], Any]) -> None:
    """Runs a function under the profiler.

    Writes an XPlane file, for xprof and TensorBoard's profile plugin, and perfetto_trace.json.gz,
    for ui.perfetto.dev, below `folder`.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), create_perfetto_trace=True, profiler_options=options):
        run()


def operations(folder: Path, program: str = "") -> list[Operation]:
    """Returns the operations of the newest trace below a folder, the longest first.

    Args:
        folder: see `record`.
        program: HLO text of the compiled program, for the sources of operations.

    Raises:
        FileNotFoundError: there is no trace.
    """
    files = sorted(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{folder}: no trace")
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for plane in jax.profiler.ProfileData.from_file(str(files[-1])).planes:
        for line in plane.lines:
            spans = []
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None and not event.name.startswith("end: "):
                    spans.append((event.start_ns, event.duration_ns, str(name)))
                    calls[str(name)] += 1
            for name, self_time in self_times(spans):
                seconds[name] += 1e-9 * self_time
    paths = sources(program)
    result = [Operation(name, paths.get(name, ""), seconds[name], calls[name]) for name in calls]
    return sorted(result, key=lambda operation: -operation.seconds)


def self_times(spans: Iterable[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """Yields (name, self time) of nested spans (start, duration, name)."""
    stack: list[list[Any]] = []  # the enclosing spans: end, name, self time
    for start, duration, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while stack and stack[-1][0] <= start:
            _, ended, self_time = stack.pop()
            yield ended, self_time
        if stack:
            stack[-1][2] -= duration
        stack.append([start + duration, name, duration])
    for _, name, self_time in stack:
        yield name, self_time


def sources(program: str) -> dict[str, str]:
    """Maps the instructions of an HLO text to their paths in the network."""
    matches = map(_INSTRUCTION.match, program.splitlines())
    return {match[1]: _shorten(match[2]) for match in matches if match}


def _shorten(path: str) -> str:
    """Removes jit, pmap and shard_map from a path: "jit(f)/jvp(Net)/conv" -> "jvp(Net)/conv"."""
    kept = [part for part in path.split("/") if not re.match(r"(jit|pmap|shard_map)\b", part)]
    return "/".join(kept)
