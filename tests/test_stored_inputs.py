"""Inputs of recognition in object stores: files, folders, patterns and CSV files."""

import pytest
from stores import BUCKET, server, store  # noqa: F401 (fixtures)
from test_object_stores import served

from jdance.errors import UserError, exit_status
from jdance.recognize import inputs, listing
from jdance.recognize.archive import Archive, Options
from jdance.recognize.ledger import Ledger
from jdance.recognize.storage import Folder
from jdance.remote import objects

IN, OUT = f"{BUCKET}/in", f"{BUCKET}/out"


def put(*names):
    for name in names:
        objects.write(f"{IN}/{name}", f"content of {name}".encode())


def described(jobs):
    return {job.address.removeprefix(f"{BUCKET}/"): job.name or job.problem for job in jobs}


def test_a_folder_of_a_store(store):
    put("a.mp4", "b.jpg", "b.png", "b_keypoints.json", "manifest.csv", "notes.txt", "sub/c.mp4",
        "out/a.jpg", ".hidden.mp4")  # fmt: skip
    found = listing.jobs(IN, f"{IN}/out")
    assert described(found) == {
        "in/a.mp4": "a", "in/b.jpg": "b.jpg", "in/b.png": "b.png",
        "in/notes.txt": "not a supported image or video format",
        "in/sub": "a nested folder; name a pattern",
    }  # fmt: skip
    assert found[0].entry == objects.stat(f"{IN}/a.mp4") and found[0].size == 16
    assert not [line for line in store.log() if line.startswith("GET /dances/in/")]
    with pytest.raises(UserError, match="no images or videos in it"):
        listing.jobs(f"{BUCKET}/nothing", OUT)
    (one,) = listing.jobs(f"{IN}/a.mp4", OUT)
    assert (one.address, one.name) == (f"{IN}/a.mp4", "a")


def test_a_pattern_of_a_store(store):
    put("2020/a.mp4", "2020/x/y/b.mp4", "2020/a.avi", "c.mp4", "2021/d[1].mp4", "2020/.e.mp4",
        ".trash/f.mp4", "out/a.mp4", "2020/g.txt", "other.mp4/h.jpg")  # fmt: skip
    assert described(listing.jobs(f"{IN}/**/*.mp4", f"{IN}/out")) == {
        "in/2020/a.mp4": "2020/a", "in/2020/x/y/b.mp4": "2020/x/y/b", "in/c.mp4": "c",
        "in/2021/d[1].mp4": "2021/d[1]",
    }  # fmt: skip
    assert described(listing.jobs(f"{IN}/20?0/*.*", OUT)) == {
        "in/2020/a.mp4": "2020/a.mp4", "in/2020/a.avi": "2020/a.avi",
        "in/2020/g.txt": "not a supported image or video format",
    }  # fmt: skip
    assert described(listing.jobs(f"{IN}/2021/d[1].mp4", OUT)) == {"in/2021/d[1].mp4": "d[1]"}
    with pytest.raises(UserError, match=r"\*\.mkv: no object matches it"):
        listing.jobs(f"{IN}/**/*.mkv", OUT)


def test_a_clip_of_skeletons_in_a_store(store):
    put("clip/0.json", "clip/1.json")
    (clip,) = listing.jobs(f"{IN}/clip", OUT)
    assert clip.name == "clip" and not clip.is_copied and inputs.kind(clip.source) == "skeletons"
    before = inputs.version(clip)
    (again,) = listing.jobs(f"{IN}/clip/", OUT)
    assert inputs.version(again) == before
    objects.write(f"{IN}/clip/1.json", b"content of clip/9.json")
    (changed,) = listing.jobs(f"{IN}/clip", OUT)
    assert inputs.version(changed) != before and inputs.version(changed)["size"] == before["size"]


def test_csv_files_with_addresses(store, tmp_path):
    put("2020/a.mp4", "b.mp4")
    rows = [
        "path,start,end,output", "2020/a.mp4,,,", "2020/a.mp4,1,2,solo", f"{IN}/b.mp4,,,",
        "../in/none.mp4,,,", f"{tmp_path}/local.mp4,,,", "https://host.invalid/x.txt,1,,",
        "https://host.invalid,,,",
    ]  # fmt: skip
    objects.write(f"{IN}/list.csv", "\n".join(rows).encode())
    found = listing.jobs(f"{IN}/list.csv", OUT)
    assert [(job.address, job.name, job.start) for job in found[:3]] == [
        (f"{IN}/2020/a.mp4", "2020/a", None), (f"{IN}/2020/a.mp4", "solo", 1.0),
        (f"{IN}/b.mp4", "b", None),
    ]  # fmt: skip
    assert found[0].entry == objects.stat(f"{IN}/2020/a.mp4")
    assert found[3].address == f"{IN}/none.mp4" and "no such" in found[3].problem
    assert (found[4].source, found[4].address) == (tmp_path / "local.mp4", "")
    assert "for videos" in found[5].problem
    assert "names no file" in found[6].problem
    local = tmp_path / "list.csv"
    local.write_text(f"path\n{IN}/b.mp4\nc.mp4\n")
    first, second = listing.jobs(str(local), OUT)
    assert (first.address, first.name) == (f"{IN}/b.mp4", "b")
    assert second.source == tmp_path / "c.mp4"
    local.write_text(f"path\n{IN}/none.mp4\n{IN}/none2.mp4\n")
    with pytest.raises(UserError, match=r"none\S*\.mp4: no such"):
        listing.jobs(str(local), OUT)


@pytest.mark.parametrize("text", [IN, f"{IN}/**/*.mp4", f"{IN}/list.csv"])
def test_a_store_that_cannot_be_listed(store, monkeypatch, text):
    put("a.mp4")
    objects.write(f"{IN}/list.csv", b"path\na.mp4\nb.mp4\n")
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.3")
    store.faults(("503", "GET", "", 1000), ("503", "HEAD", "", 1000))
    with pytest.raises(UserError, match="the store or the network failed") as caught:
        listing.jobs(text, OUT)
    assert exit_status(caught.value) == 74
    store.faults()
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        objects._filesystem.cache_clear()
        with pytest.raises(UserError, match="no credentials") as caught:
            listing.jobs(text, OUT)
    assert exit_status(caught.value) == 1
    objects._filesystem.cache_clear()


def test_files_of_a_web_server(tmp_path, monkeypatch):
    monkeypatch.setenv("JDANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.5")
    objects._filesystem.cache_clear()
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a b.mp4").write_text("first")
    (folder / "c.mp4").write_text("second")
    (folder / "list.csv").write_text(
        "path\nc.mp4\nnone.mp4\nhttp://127.0.0.1:9/d.mp4\nhttp://127.0.0.1:9/e.mp4\n"
    )
    seen = {}

    def recognize(job, stem):
        seen[job.label] = job.source.name, job.source.read_text()
        stem.with_suffix(".txt").write_text("x")
        return ""

    with served(folder) as web:
        found = listing.jobs(f"{web}/a%20b.mp4?key=secret", OUT) + listing.jobs(
            f"{web}/list.csv", OUT
        )
        ledger = Ledger(Folder(tmp_path / "out"), {}, [], inputs.version)
        outcome = Archive(found, ledger, recognize, lambda job: 1.0, Options("r")).run()
        for address in (f"{web}/*.mp4", f"{web}/"):
            with pytest.raises(UserError):
                listing.jobs(address, OUT)
    assert seen == {
        f"{web}/a%20b.mp4": ("a b.mp4", "first"), f"{web}/c.mp4": ("c.mp4", "second"),
    }  # fmt: skip
    failure, *of_dead_server = outcome.failures
    assert [f.job.label[-5:] for f in of_dead_server] == ["d.mp4", "e.mp4"]
    assert all("the network failed" in f.reason for f in of_dead_server)
    assert exit_status(outcome.transient) == 74
    assert failure.reason.startswith(f"{web}/none.mp4: no such")
