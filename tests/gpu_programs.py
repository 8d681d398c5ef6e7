"""The programs that `test_gpu_programs.py` compiles, and the table of their costs.

python tests/gpu_programs.py --record         # compiles what gpu_programs.json lacks and adds it
python tests/gpu_programs.py --record --all   # compiles all programs again
python tests/gpu_programs.py                  # prints the table of docs/performance.md
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from programs import program

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
_PAPER = ("--config=configs/paper.py", "--config.model.dtype=bfloat16", "--target=h100")

# name -> arguments of launch/profile.py; {exported} is a folder by launch/export.py
PROGRAMS: dict[str, tuple[str, ...]] = {
    "train paper, bfloat16, batch 256": (*_PAPER, "--batch=256"),
    "train paper, bfloat16, batch 64": (*_PAPER, "--batch=64"),
    "train paper, bfloat16, batch 512, 8 GPUs": (*_PAPER, "--batch=512", "--gpus=8"),
    **{
        f"train paper, bfloat16, batch 64, {target.upper()}": (*_PAPER[:2], f"--target={target}",
                                                               "--batch=64")
        for target in ("h200", "a100", "l4")
    },
    **{
        f"{program} {config}": (
            f"--config=configs/{config}.py", f"--program={program}", "--target=h100",
        )
        for config in CONFIGS
        for program in ("train", "evaluate")
    },
    "recognize paper, bfloat16": (*_PAPER, "--program=recognize"),
    "recognize paper, bfloat16, key points given": (*_PAPER, "--program=recognize", "--pose="),
    "recognize quickstart": (
        "--config=configs/quickstart.py", "--program=recognize", "--target=h100",
    ),
    "recognize quickstart, key points given": (
        "--config=configs/quickstart.py", "--program=recognize", "--target=h100", "--pose=",
    ),
    "exported quickstart, H100": ("--exported={exported}", "--target=h100"),
    "exported quickstart, A100": ("--exported={exported}", "--target=a100"),
}  # fmt: skip
BOUNDS = ("kernels", "while_loops", "conditionals", "bytes_per_image", "memory_bytes")


def export(folder: Path) -> None:
    """Exports the quickstart's program with zeros as weights."""
    import runpy

    from jdance.bench import ahead
    from jdance.recognize.export import export

    config = runpy.run_path(str(ROOT / "configs" / "quickstart.py"))["get_config"]()
    export(ahead.dummy_recognizer(config, 6, "stage"), folder, batch=1, height=720, width=1280)


def compile_program(name: str, exported: Path, scale: bool = False) -> dict:
    """Compiles one program in a process of its own.

    Raises:
        AssertionError: it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        arguments = [word.format(exported=exported) for word in PROGRAMS[name]]
        arguments += [f"--output={output}", f"--largest_batch={str(scale).lower()}"]
        program("profile", *arguments)
        return json.loads(output.read_text())


def _record(known: dict[str, dict]) -> None:
    """Writes the record of all programs, of which those in `known` are not compiled again."""

    def compile_one(name: str) -> tuple[str, dict]:
        result = compile_program(
            name, exported, scale=name.startswith(("train paper,", "train yoga5", "train pose"))
        )
        print(name, f"{result['compile_s']:.0f} s", flush=True)
        return name, {key: value for key, value in result.items() if not isinstance(value, list)}

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        exported = Path(folder) / "exported"
        export(exported)
        new = dict(pool.map(compile_one, [name for name in PROGRAMS if name not in known]))
    results = {name: new.get(name, known.get(name)) for name in PROGRAMS}
    RECORD.write_text(json.dumps(results, indent=1) + "\n")


def _table() -> None:
    print(
        "| program | GPU | kernels | loops | GFLOP | MB | roofline, us | memory, GiB | max batch |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, result in json.loads(RECORD.read_text()).items():
        gpu = result["target"].removeprefix("NVIDIA ").split()[0].split("-")[0]
        batch = result.get("largest_batch_per_device")
        print(
            f"| {name.split(', batch')[0]}, batch {result['batch_size']}"
            f"{' over 8 GPUs' * (result['gpus'] > 1)} | {gpu} | {result['kernels']:,} "
            f"| {result['while_loops']} | {result['flop_per_image'] / 1e9:.2f} "
            f"| {result['bytes_per_image'] / 1e6:.1f} | {1e6 * result['floor_s_per_image']:.1f} "
            f"| {result['memory_bytes'] / 2**30:.2f} | {f'{batch:,}' if batch else ''} |"
        )


if __name__ == "__main__":
    if "--record" in sys.argv:
        _record({} if "--all" in sys.argv else json.loads(RECORD.read_text()))
    else:
        _table()
