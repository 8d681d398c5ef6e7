"""Which operations of a compiled program take the time, by a trace of jax.profiler."""

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

    Fields:
        name: in the compiled program.
        source: where in the network it comes from; empty if the compiler does not say.
        seconds: over all of its calls, without those of other operations inside.
        calls: how many there were.
    """

    name: str
    source: str
    seconds: float
    calls: int


def record(folder: Path, run: Callable[[], Any]) -> None:
    """Runs something under the profiler: an XPlane file and a Perfetto trace below `folder`.

    xprof and TensorBoard's profile plugin open the folder, ui.perfetto.dev the file
    perfetto_trace.json.gz.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's own calls are not what is looked for
    with jax.profiler.trace(str(folder), create_perfetto_trace=True, profiler_options=options):
        run()


def operations(folder: Path, program: str = "") -> list[Operation]:
    """The operations of the newest trace below a folder, the most expensive first.

    Args:
        folder: see `record`.
        program: the compiled program's text, which tells where operations come from.

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
            for name, own in own_times(spans):
                seconds[name] += 1e-9 * own
    places = sources(program)
    found = [Operation(name, places.get(name, ""), seconds[name], calls[name]) for name in calls]
    return sorted(found, key=lambda operation: -operation.seconds)


def own_times(spans: Iterable[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """Of spans (start, duration, name) that may lie within each other, the time of each itself."""
    open_: list[list[Any]] = []  # the spans around the present one: end, name, own time
    for start, duration, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_ and open_[-1][0] <= start:
            _, done, own = open_.pop()
            yield done, own
        if open_:
            open_[-1][2] -= duration
        open_.append([start + duration, name, duration])
    for _, name, own in open_:
        yield name, own


def sources(program: str) -> dict[str, str]:
    """{instruction: where it comes from} of a compiled program in HLO."""
    matches = map(_INSTRUCTION.match, program.splitlines())
    return {match[1]: _shortened(match[2]) for match in matches if match}


def _shortened(path: str) -> str:
    """Without the names of the transformations around the network: "jit(f)/jvp(Net)/conv" """
    kept = [part for part in path.split("/") if not re.match(r"(jit|pmap|shard_map)\b", part)]
    return "/".join(kept)
