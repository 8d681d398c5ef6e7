"""Class-balanced and confusion-weighted sampling, and splits by video and by frame."""

import json

import numpy as np
import pytest
from conftest import tiny_config, train_batches
from test_loader import assert_same, source, take  # noqa: F401
from test_prepare import load

from jdance.data import records, resplit, sampling, sources
from jdance.data.prepare import prepare
from jdance.errors import UserError
from jdance.train import loop
from jdance.train.sampler import Sampler

UNEVEN = np.repeat([0, 1, 3], [50, 8, 2])  # no class 2


def test_balanced_order():
    fractions = sampling.balanced(UNEVEN, 4)
    np.testing.assert_allclose(fractions, [1 / 3, 1 / 3, 0, 1 / 3])
    order = sampling.Order(UNEVEN, fractions, seed=1)
    epochs = np.array([order(position) for position in range(180)]).reshape(3, 60)
    for epoch in epochs:
        counts = np.bincount(epoch, minlength=60)
        np.testing.assert_array_equal(np.bincount(UNEVEN[epoch], minlength=4), [20, 20, 0, 20])
        assert set(counts[50:58]) == {2, 3} and set(counts[58:]) == {10} and counts[:50].max() == 1
    assert not (epochs[0] == epochs[1]).all()
    # A pure function of the position.
    again = sampling.Order(UNEVEN, fractions, seed=1)
    assert [again(position) for position in (170, 3, 65)] == [
        epochs.ravel()[p] for p in (170, 3, 65)
    ]
    other = sampling.Order(UNEVEN, fractions, seed=2)
    assert [other(position) for position in range(60)] != epochs[0].tolist()


def test_fractional_class_counts_are_rounded():
    order = sampling.Order(np.arange(10) % 3, [0.5, 0.25, 0.25], seed=0)
    drawn = np.array([order(position) for position in range(10)]) % 3
    assert sorted(np.bincount(drawn)) in ([2, 3, 5],)


def test_confusion_weighted_follows_the_errors():
    confusion = np.array([[10, 0, 0], [5, 5, 0], [0, 0, 0]])
    np.testing.assert_allclose(sampling.confusion_weighted(confusion, 1.0), [1 / 2.5, 1.5 / 2.5, 0])
    np.testing.assert_allclose(sampling.confusion_weighted(confusion, 0.0), [0.5, 0.5, 0])


def test_sampled_batches_resume(tiny_data, source):  # noqa: F811
    config = tiny_config(tiny_data)
    fractions = np.array([0.6, 0.2, 0.2])
    whole = take(train_batches(source, config, fractions=fractions), 12)
    labels = np.concatenate([batch["label"] for batch in whole])[:45]
    assert np.bincount(labels).tolist() == [27, 9, 9]
    assert_same(whole[7:], take(train_batches(source, config, 7, fractions=fractions), 5))
    # Repetitions of an example in an epoch are augmented differently.
    index = np.concatenate([batch["index"] for batch in whole])[:45]
    features = np.concatenate([batch["features"] for batch in whole])[:45]
    twice = np.flatnonzero(np.bincount(index) > 1)[0]
    first, second = features[index == twice][:2]
    assert not np.array_equal(first, second)


def sampled_config(data, kind):
    config = tiny_config(data)
    config.model.branches = "keypoints"
    config.data.sampling = kind
    config.epochs = 3.0
    config.checkpoint_every = 0.5
    return config


def test_confusion_sampling_resumes_exactly(tiny_data, tmp_path):
    config = sampled_config(tiny_data, "confusion")
    straight = loop.train(config, tmp_path / "a")
    config.epochs = 1.6  # in the middle of the second round
    loop.train(config, tmp_path / "b")
    config.epochs = 3.0
    assert loop.train(config, tmp_path / "b") == straight
    seen = [json.loads((tmp_path / run / "sampling.json").read_text()) for run in "ab"]
    assert seen[0] == seen[1] and set(seen[0]) == {"6", "12"}
    assert np.sum(seen[0]["6"]) == 45 and np.sum(seen[0]["12"]) == 45 * 1.5


def test_confusion_sampling_fixes_the_period_of_evaluations(tiny_data, tmp_path):
    config = sampled_config(tiny_data, "confusion")
    config.update(eval_every=2.0, epochs=1.0)
    loop.train(config, tmp_path)
    config.update(eval_every=0.5, epochs=2.0)
    with pytest.raises(UserError, match=r"has eval_every=2.0, not 0.5, which data.sampling=conf"):
        loop.train(config, tmp_path)


def test_confusion_sampling_needs_its_state(tiny_data, tmp_path):
    config = sampled_config(tiny_data, "confusion")
    config.epochs = 1.6
    loop.train(config, tmp_path)
    config.epochs = 2.0
    (tmp_path / "sampling.json").write_text("{")
    with pytest.raises(UserError, match=r"sampling.json: is damaged"):
        loop.train(config, tmp_path)
    (tmp_path / "sampling.json").unlink()
    with pytest.raises(UserError, match=r"sampling.json: has no entry up to step 9"):
        loop.train(config, tmp_path)


def test_sampling_is_off_by_default_and_validated(tiny_data, tmp_path):
    plain = Sampler(tiny_config(tiny_data), tmp_path, [], 3, 5)
    assert plain.class_fractions(0, dict) is None and not plain.changes(5)
    config = sampled_config(tiny_data, "even")
    with pytest.raises(UserError, match="sampling=even: expected one of shuffled, balanced, conf"):
        loop.train(config, tmp_path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Skeletons of six videos with eight frames each, two per class."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("clips")
    clip = np.repeat(np.arange(6), 8)
    np.savez(
        folder / "s.npz", xy=rng.uniform(0, 90, (48, 18, 2)), conf=np.ones((48, 18)),
        label=np.array(list("abc"))[clip % 3], group=clip.astype(str),
    )  # fmt: skip
    return folder / "s.npz"


def groups(data):
    dataset = records.Dataset(data)
    return {s: {e.group for e in load(data, s)} for s in dataset.info["splits"] if dataset.count(s)}


def test_prepare_splits_by_video_or_by_frame(clips, tmp_path):
    half = {"train": 0.5, "test": 0.5}
    for by in ("video", "frame"):
        prepare(sources.open_source(str(clips)), tmp_path / by, None, fractions=half, split_by=by)
    by_video, by_frame = groups(tmp_path / "video"), groups(tmp_path / "frame")
    assert not by_video["train"] & by_video["test"]
    assert len(by_frame["train"] & by_frame["test"]) > 3
    assert {e.group for s in ("train", "test") for e in load(tmp_path / "frame", s)} == set(
        "012345"
    )


def test_resplit(clips, tmp_path):
    half = {"train": 0.5, "test": 0.5}
    prepare(sources.open_source(str(clips)), tmp_path / "data", None, fractions=half)
    dataset = records.Dataset(tmp_path / "data")
    assert resplit.count_leaking_groups(dataset) == 0
    resplit.resplit(dataset, tmp_path / "frame", "frame", seed=1)
    redrawn = records.Dataset(tmp_path / "frame")
    assert resplit.count_leaking_groups(redrawn) > 3
    assert [redrawn.count(s) for s in ("train", "test")] == [24, 24]
    assert set(redrawn.info["splits"]["test"]["per_class"].values()) == {8}
    names = [{e.source for s in ("train", "test") for e in load(d.folder, s)}
             for d in (dataset, redrawn)]  # fmt: skip
    assert names[0] == names[1] and len(names[0]) == 48
    assert redrawn.fingerprint() != dataset.fingerprint()
    resplit.resplit(redrawn, tmp_path / "video", "video", seed=1)
    assert resplit.count_leaking_groups(records.Dataset(tmp_path / "video")) == 0
