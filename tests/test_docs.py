"""Documents and docstrings: links, commands, flags, files, terms, and the documented example."""

import ast
import re
import shlex
from functools import cache
from itertools import pairwise

import jax
import numpy as np
import pytest
from conftest import ROOT, tiny_image

from jdance import config as defaults
from jdance import models
from jdance.data import images, records
from jdance.train import init_from

PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + PAGES
PROGRAMS = sorted((ROOT / "launch").glob("*.py"))
SOURCES = [*PROGRAMS, *sorted((ROOT / "configs").glob("*.py"))]  # with commands in docstrings

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w/.$-])(?:launch|configs|docs|tests|jdance)/[\w/-]+\.\w+")
_PROGRAM = re.compile(r"launch/(\w+)\.(?:py|sh)")
_FLAG = re.compile(r"(?<![\w-])--([a-z][\w.]*)")
_NONSTANDARD = re.compile(
    r"\b(pictur\w+|judg\w+|whom|nobody|somebody|everybody|recognis\w+|colour\w*|centr(?:e|es|ed)|"
    r"normalis\w+)\b",
    re.I,
)
_NONSTANDARD_IN_DOCUMENTS = re.compile(
    r"\b(anew|films?|theirs|ours|so many|as good as|grey|labelled|neighbour\w*|synchronis\w+|"
    r"optimis\w+|initialis\w+|persons)\b",
    re.I,
)


def prose(text):
    """Returns a document without code blocks, inline code and link targets."""
    return _LINK.sub("", _INLINE.sub("", _FENCE.sub("", text)))


@cache
def anchors(path):
    """Returns the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def flags_of(program, former=False):
    """Returns the flags of a program in launch/, with their former names if asked."""
    result = {"help"}
    for node in ast.walk(ast.parse((ROOT / "launch" / f"{program}.py").read_text())):
        name = getattr(node, "func", None)
        name = getattr(name, "attr", getattr(name, "id", ""))
        if name == "former_name" and former:
            result.add(node.args[0].value)
        elif name == "checkpoint_flag":
            result.add("checkpoint")
        elif name == "pose_flags":
            result |= {"pose_size", "pose_views"}
        elif name == "recognition_flags":
            result |= {"model", "checkpoint", "pose", "sequence_model"}
        elif name.startswith("DEFINE_"):
            flag = node.args[0].value
            result |= {flag, f"no{flag}"} if name == "DEFINE_bool" else {flag}
    return result


def commands(text):
    """Splits shell code into lines, with continuation lines joined."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def problems_of(command):
    """Lists the unknown flags of a command that calls a program of launch/."""
    called = _PROGRAM.search(command)
    if not called:
        return []
    program = {"slurm": "train", "slurm_recognize": "recognize"}.get(called[1], called[1])
    if not (ROOT / "launch" / f"{program}.py").exists():
        return []
    words = _FLAG.findall(command[called.end() :])
    unknown = [word for word in words if word.partition(".")[0] not in flags_of(program)]
    file = re.search(r"--config=(configs/\w+\.py)", command)
    overrides = [word.partition(".")[2] for word in words if word.startswith("config.")]
    if overrides:
        config = defaults.load(str(ROOT / file[1])) if file else defaults.base()
        for key in overrides:
            try:
                defaults.check_key(config, key)
            except KeyError:
                unknown.append(f"config.{key}")
    return [f"{word}: no flag of {program}.py in {command!r}" for word in unknown]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path):
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("path", [*DOCUMENTS, *SOURCES], ids=lambda path: path.name)
def test_files_and_flags_exist(path):
    text = path.read_text()
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text))
        lines = commands(text)
    else:
        lines = [line for kind, code in _FENCE.findall(text) if kind == "bash"
                 for line in commands(code)]  # fmt: skip
        inline = _INLINE.findall(_FENCE.sub("", text))
        lines += [code for code in inline if _PROGRAM.search(code) and _FLAG.search(code)]
        former = path.name == "CHANGELOG.md"
        known = set().union(*(flags_of(program.stem, former) for program in PROGRAMS))
        for code in inline:
            if code.startswith("--"):
                words = {word.partition(".")[0] for word in _FLAG.findall(code)}
                assert words <= known, code
        keys = {key for code in inline for key in re.findall(r"--config\.([a-z][\w.]*)", code)}
        for key in keys:
            defaults.check_key(defaults.pose() if key == "heat_weight" else defaults.base(), key)
    missing = [name for name in _PATH.findall(text) if not (ROOT / name).exists()]
    assert not missing
    assert not [
        line
        for before, line in pairwise(lines)
        if _PROGRAM.search(before) and line.lstrip().startswith("--")
    ], "continues a command that does not end with a backslash"
    assert not [problem for line in lines for problem in problems_of(line)]


def test_unknown_flags_are_found():
    good = (
        "python launch/train.py --config=configs/paper.py --config.optimizer.warmup=1 --workdir=x"
    )
    assert not problems_of(good)
    assert problems_of(good + " --split=val") and problems_of(good + " --config.rate=1")
    assert problems_of("python launch/recognize.py --noshow --noinput")[0].startswith("noinput")
    assert commands("a \\\n  --b=1\nc") == ["a  --b=1", "c"]


def test_readme_is_short_and_links_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 180
    assert {f"docs/{path.name}" for path in PAGES} <= {t.split("#")[0] for t in _LINK.findall(text)}


def test_every_program_and_experiment_is_documented():
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert not [
        f"{p.parent.name}/{p.name}" for p in SOURCES if f"{p.parent.name}/{p.name}" not in text
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_begin_with_a_command(path):
    assert re.match(r"# .+\n\n```bash\n\S", path.read_text())


def docstrings(path):
    """Returns the docstrings and the flag help of a Python file."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            texts.append(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
            texts += [str(arg.value) for arg in node.args[1:] if isinstance(arg, ast.Constant)]
    return "\n".join(texts)


@pytest.mark.parametrize("path", [*DOCUMENTS, *SOURCES], ids=lambda path: path.name)
def test_documents_use_standard_terms(path):
    text = prose(docstrings(path) if path.suffix == ".py" else path.read_text())
    assert not _NONSTANDARD.findall(text) + _NONSTANDARD_IN_DOCUMENTS.findall(text)


def test_docstrings_use_standard_terms():
    found = {
        str(path.relative_to(ROOT)): _NONSTANDARD.findall(prose(docstrings(path)))
        for path in sorted((ROOT / "jdance").rglob("*.py"))
    }
    assert not {path: words for path, words in found.items() if words}


def test_the_model_zoo_is_complete():
    from jdance.pose import weights
    from jdance.pose import zoo as pose_zoo

    zoo = (
        (ROOT / "docs" / "pose-networks.md").read_text().split("## Model zoo")[1].split("\n## ")[0]
    )
    assert all(f"`--pose={name}`" in zoo for name in (*weights.SHIPPED, *pose_zoo.DOWNLOADS))


def test_the_documented_data_source(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        image, keypoints = tiny_image(number)
        stem = f"{('wave', 'walk')[number % 2]}-{number // 4}-{number}"
        images.write(folder / f"{stem}.jpg", image)
        np.save(folder / f"{stem}.npy", keypoints)
    text = (ROOT / "docs" / "extending.md").read_text()
    section = text.split("\n## Add a data source\n")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    exec(section.split("```python\n")[1].split("```")[0], {"__name__": "example"})
    data = records.Dataset(tmp_path / "data" / "mine")
    assert data.classes == ["walk", "wave"]
    assert sum(data.count(split) for split in ("train", "val", "test")) == 24


def test_the_documented_network(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "extending.md").read_text()
    section = text.split("\n## Add your own network\n")[1].split("\n## ")[0]
    (tmp_path / "two_layers.py").write_text(section.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = (line for line in commands(section) if "launch/train.py" in line)
    config = defaults.load(str(ROOT / re.search(r"--config=(\S+)", command)[1]))
    changes = dict(re.findall(r"--config\.([\w.]+)=(\S*)", command))
    config.update_from_flattened_dict(changes)
    assert changes["model.branches"] == config.model.branches == "two_layers"
    (size,) = models.inputs(config.model).shape
    logits, variables = models.build(config.model).init_with_output(
        jax.random.key(0), None, np.zeros((2, size), np.float32)
    )
    assert logits.shape == (2, config.model.classes)
    if config.init_from:
        classes = [str(number) for number in range(config.model.classes)]
        init_from.read(config.init_from, variables, config.model, classes)  # fails if nothing fits


def test_shell_blocks_are_valid():
    for path in DOCUMENTS:
        for kind, code in _FENCE.findall(path.read_text()):
            if kind == "bash":
                shlex.split(code, comments=True)
