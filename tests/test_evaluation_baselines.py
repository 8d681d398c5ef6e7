"""Baselines of an evaluation: features, fitting without leaks, the comparison, refusals."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_config, tiny_source
from programs import program
from test_sequences import clips, sequence_config

from jdance import config as defaults
from jdance import features
from jdance.data import records
from jdance.data.items import LabeledPerson
from jdance.data.prepare import prepare
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.report import run as report
from jdance.skeleton import JHMDB15
from jdance.train import baselines, loop, results
from jdance.train.baselines import Examples

METHODS = ["nearest class mean", "svm", "gradient boosting"]


def blobs(count, seed=0):
    """Examples of three classes, with two features, in groups of four of one class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count // 4) % 3
    labels = np.repeat(labels, 4).astype(np.int32)
    centers = np.array([[0, 0], [4, 0], [0, 4]])
    points = centers[labels] + rng.normal(0, 0.7, (len(labels), 2))
    groups = np.repeat(np.arange(count // 4), 4).astype(str)
    return Examples(points.astype(np.float32), np.ones(len(labels), bool), labels), groups


def accuracies(train, groups, test):
    found = baselines.fit_and_predict(train, groups, [test])
    return {name: (guesses == test.label).mean() for name, (guesses, _) in found.items()}


def test_all_learn():
    train, groups = blobs(240)
    found = accuracies(train, groups, blobs(120, seed=1)[0])
    assert list(found) == METHODS and min(found.values()) > 0.9


def test_shuffled_labels_give_chance():
    """Labels that do not depend on the features, in groups of similar examples."""
    rng = np.random.default_rng(3)
    train, groups = blobs(240)
    places = np.repeat(rng.uniform(0, 1, (60, 2)), 4, 0) + rng.normal(0, 0.01, (240, 2))
    train = train._replace(features=places, label=np.repeat(rng.permutation(train.label[::4]), 4))
    test, _ = blobs(900)
    test = test._replace(features=rng.uniform(0, 1, (900, 2)))
    for accuracy in accuracies(train, groups, test).values():
        assert accuracy == pytest.approx(1 / 3, abs=0.065)  # 4 standard deviations


def test_labels_of_the_evaluated_split_are_not_used():
    train, groups = blobs(240)
    test, _ = blobs(120, seed=1)
    plain = baselines.fit_and_predict(train, groups, [test])
    blind = baselines.fit_and_predict(train, groups, [test._replace(label=test.label * 0 - 1)])
    for name in METHODS:
        np.testing.assert_array_equal(plain[name][0], blind[name][0])
        assert plain[name][1] == blind[name][1]


def test_groups_are_not_divided_in_cross_validation(monkeypatch):
    train, groups = blobs(120)
    number = np.repeat(np.arange(30), 4)
    fits, checks = [], []

    class Model:
        def fit(self, x, y):
            fits.append(set(x[:, 0]))
            return self

        def predict(self, x):
            assert not fits[-1] & set(x[:, 0])
            checks.append(set(x[:, 0]))
            return np.zeros(len(x))

    monkeypatch.setattr(baselines, "_svc", lambda c, gamma: Model())
    *_, chosen_by = baselines._choose(np.stack([number, number], 1), train.label, groups)
    assert chosen_by.startswith("cross-validation between groups")
    assert len(checks) == 27 and set().union(*checks[:3]) == set(range(30))


def test_chosen_parameters_have_the_best_accuracy(monkeypatch):
    train, groups = blobs(120)

    class Model:
        def __init__(self, c, gamma):
            self.good = (c, gamma * 2) == (100, 0.3)

        def fit(self, x, y):
            return self

        def predict(self, x):
            return x[:, 0] if self.good else x[:, 0] - (np.arange(len(x)) == 0)

    monkeypatch.setattr(baselines, "_svc", Model)
    values = np.stack([train.label, train.label], 1)
    assert baselines._choose(values, train.label, groups)[:2] == (100, 0.15)


def test_one_group_per_class_has_default_parameters():
    train, _ = blobs(60)
    found = baselines.fit_and_predict(train, train.label.astype(str), [train])
    guesses, parameters = found["svm"]
    assert parameters["chosen_by"] == "default: too few groups"
    assert (guesses == train.label).mean() > 0.9


def test_two_classes_and_a_constant_feature():
    train, groups = blobs(240)
    two = train.label < 2
    constant = np.ones((240, 1), np.float32)
    examples = Examples(
        np.concatenate([train.features, constant], 1)[two], train.valid[two], train.label[two]
    )
    found = accuracies(examples, groups[two], examples)
    assert min(found.values()) > 0.9


def test_examples_without_a_person_get_the_most_frequent_class():
    train, groups = blobs(240)
    missing = np.arange(240) % 2 == 0
    noise = np.where(missing[:, None], np.float32(100), train.features)
    labels = np.where(missing, 2, train.label)
    train = Examples(noise, ~missing, labels)
    test, _ = blobs(120, seed=1)
    absent = np.arange(120) < 30
    for guesses, _ in baselines.fit_and_predict(
        train, groups, [test._replace(valid=~absent)]
    ).values():
        assert (guesses[absent] == 2).all()
        assert (guesses == test.label)[~absent].mean() > 0.9
    nobody = test._replace(valid=np.zeros(120, bool))
    for guesses, _ in baselines.fit_and_predict(train, groups, [nobody]).values():
        assert (guesses == 2).all()


def test_scores_of_views_are_averaged():
    train, groups = blobs(240)
    test, _ = blobs(60, seed=1)
    wrong = test._replace(features=np.roll(test.features, 4, 0))
    single = baselines.fit_and_predict(train, groups, [test])
    views = baselines.fit_and_predict(train, groups, [test, test, wrong])
    np.testing.assert_array_equal(single[METHODS[2]][0], views[METHODS[2]][0])
    far = test._replace(features=test.features + np.float32([40, 0]))  # beyond class 1
    both = baselines.fit_and_predict(train, groups, [test, far])
    assert not np.array_equal(single[METHODS[0]][0], both[METHODS[0]][0])


def test_large_training_sets_are_sampled_by_class():
    labels = np.array([0] * 900 + [1] * 99 + [2])
    some = baselines._sample(labels, 100)
    assert np.bincount(labels[some]).tolist() == [90, 10, 1] and len(set(some)) == 101
    np.testing.assert_array_equal(baselines._sample(labels, 1000), np.arange(1000))


def test_fewer_training_examples_are_stated():
    methods = {"svm": {"parameters": {"examples": 10_004}}, "other": {"parameters": {}}}
    comparison = {"methods": methods, "train": {"n": 58_998}}
    assert baselines.label("svm", comparison) == "svm (10,004 examples)"
    assert baselines.label("other", comparison) == "other"
    comparison["train"]["n"] = 10_004
    assert baselines.label("svm", comparison) == "svm"


@pytest.mark.parametrize(
    ("branches", "sequences", "name", "shape"),
    [
        ("fused", False, "full", (99,)),
        ("keypoints", False, "full", (99,)),
        ("image", False, "fused18", (18,)),
        ("qes", False, "segments22", (22,)),
        ("str", False, "fused18", (18,)),
        ("str", True, "fused18", (32, 18 + 72)),
        ("sequence", True, "full", (32, 99 + 72)),
    ],
)
def test_features_are_those_of_the_network(branches, sequences, name, shape):
    config = defaults.model()
    config.update(branches=branches, features="full")
    inputs = baselines.keypoint_inputs(config, sequences)
    assert (inputs.feature_set, inputs.shape, inputs.image) == (name, shape, False)
    people = np.random.default_rng(0).uniform(1, 50, (2, *shape[:-1], 18, 3)).astype(np.float32)
    computed = inputs.compute(people, baselines.LAYOUTS["coco18"])
    assert computed.shape == (2, *shape)
    compute = features.sequence if sequences else features.compute
    np.testing.assert_array_equal(computed, compute(name, people))


def test_a_network_without_keypoint_layers_is_compared_on_fused18():
    config = defaults.model()
    config.update(features="full", keypoint_widths=())
    assert baselines.keypoint_inputs(config, False).feature_set == "fused18"


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    config.model.features = "full"
    loop.train(config, folder)
    return folder


def test_comparison_is_in_the_result_and_the_report(trained, tiny_data, tmp_path):
    result, path = results.evaluate([trained], "val", output=tmp_path, with_baselines=True)
    assert json.loads(path.read_text()) == result
    found = result["baselines"]
    assert found["features"] == "full: 99 numbers"
    assert found["train"] == {"data": str(tiny_data), "n": 45}
    assert list(found["methods"]) == METHODS
    for own in found["methods"].values():
        assert own["difference"] == pytest.approx(result["accuracy"] - own["accuracy"])
        assert own["interval"][0] <= own["accuracy"] <= own["interval"][1]
        low, high = own["difference_interval"]
        assert low <= own["difference"] <= high
    best = found["methods"][found["best"]]
    assert best["accuracy"] == max(own["accuracy"] for own in found["methods"].values())
    assert best["accuracy"] > 0.5  # the class is the height of the wrists; by chance 0.33
    assert result["interval_method"] == "Wilson"
    assert "baselines" not in results.evaluate([trained], "val", output=tmp_path / "plain")[0]

    text = report.write(trained, tmp_path).read_text()
    assert f"The network is {found['verdict']} than {found['best']} on key points" in text
    assert f"<td>svm</td><td>{100 * found['methods']['svm']['accuracy']:.1f} (" in text
    lines = baselines.table(result).splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == ["network", *METHODS]
    assert f"{result['accuracy']:.3f} [{result['interval'][0]:.2f}, " in lines[1]


def test_only_training_labels_tell_the_classes(trained, tmp_path):
    """The whole evaluation: exchanged training labels make the baselines wrong on val."""
    source, exchanged = tiny_source(240), dict(zip("abc", "bca", strict=True))
    items = [
        replace(item, people=(LabeledPerson(exchanged[item.people[0].label]),))
        if item.split == "train"
        else item
        for item in source.items
    ]
    prepare(replace(source, items=items), tmp_path / "data", None)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = json.loads((run / "config.json").read_text())
    content["config"]["data"]["dir"] = str(tmp_path / "data")
    del content["data"]
    (run / "config.json").write_text(json.dumps(content))
    result, _ = results.evaluate([run], "val", with_baselines=True)
    for own in result["baselines"]["methods"].values():
        assert own["accuracy"] < 0.2  # of 60 examples; by chance 0.33


@pytest.mark.parametrize(
    ("network", "verdict"), [(100, "better"), (82, "not clearly better"), (80, "not better"),
                             (78, "not better"), (50, "worse")],
)  # fmt: skip
def test_verdict(network, verdict, trained, tiny_data, monkeypatch):
    """80 of 100 examples are predicted correctly by the best baseline."""
    labels, train = np.arange(100) % 3, records.Dataset(tiny_data)
    examples = Examples(np.zeros((100, 2), np.float32), np.ones(100, bool), labels)

    def guesses(right, start=0):
        wrong = (np.arange(100) - start) % 100 >= right
        return (labels + wrong) % 3

    predicted = {"nearest class mean": (guesses(70), {}), "svm": (guesses(80, 10), {})}
    monkeypatch.setattr(baselines, "read", lambda *arguments: examples)
    monkeypatch.setattr(baselines, "fit_and_predict", lambda *arguments: predicted)
    config = defaults.base()
    result = baselines.compare(
        config, train.classes, train, train, "val",
        {"probabilities": np.eye(3)[guesses(network)], "label": labels},
        np.arange(100).astype(str),
    )  # fmt: skip
    assert (result["best"], result["verdict"]) == ("svm", verdict)
    evaluated = {"accuracy": network / 100, "interval": [0.5, 1.0], "baselines": result}
    line = baselines.sentence(evaluated, baselines.show)
    start = f"the network is {verdict} than svm on key points ({network / 100:.3f} [0.50, 1.00]"
    assert line.startswith(start) and "against 0.800 [0.71, 0.87]; difference " in line


def test_views_dropped_joints_and_ensembles(trained, tmp_path):
    def evaluate(*runs, **options):
        return results.evaluate(runs, "val", output=tmp_path, with_baselines=True, **options)

    _, path = evaluate(trained, views=2)
    assert "baselines" in json.loads(path.read_text()) and path.name == "eval_val_views2.json"
    assert "baselines" in evaluate(trained, trained)[0]
    result, _ = evaluate(trained, drop_joints="all")
    for own in result["baselines"]["methods"].values():
        assert own["accuracy"] == 1 / 3  # 5 examples of each class


def test_other_data_with_fewer_classes(trained, tmp_path):
    source = tiny_source()
    items = [item for item in source.items if item.people[0].label != "a"]
    prepare(replace(source, items=items, classes=["b", "c"]), tmp_path / "data", None)
    result, _ = results.evaluate(
        [trained], "val", data=str(tmp_path / "data"), output=tmp_path, with_baselines=True
    )
    whole, _ = results.evaluate([trained], "val", output=tmp_path, with_baselines=True)
    for name, own in result["baselines"]["methods"].items():
        assert result["n"] == 10 and own["accuracy"] >= 0.4
        assert own["parameters"] == whole["baselines"]["methods"][name]["parameters"]


def test_sequences(tmp_path):
    raw = clips(96)
    raw["group"] = (np.arange(96) // 8).astype(str)
    raw["split2"] = np.where(np.arange(96) // 8 % 2, "train", "val")
    np.savez(tmp_path / "clips.npz", **raw)
    source = open_source(str(tmp_path / "clips.npz"), split_column="split2")
    prepare(source, tmp_path / "data", None)
    config = sequence_config(tmp_path / "data")
    config.epochs = 0.5
    loop.train(config, tmp_path / "run")
    result, _ = results.evaluate([tmp_path / "run"], "val", with_baselines=True)
    found = result["baselines"]
    numbers = 2 * (features.size("fused18", JHMDB15) + 60)
    assert found["features"] == (
        f"fused18, mean and standard deviation over time: {numbers} numbers"
    )
    assert result["interval_method"] == "bootstrap over 6 groups"
    assert found["methods"]["svm"]["accuracy"] > 0.8  # the classes are directions of movement


def test_refusals(trained, tiny_data, tmp_path, monkeypatch):
    program("evaluate", f"--workdir={trained}", "--split=val", "--calibrate", "--baselines",
            status=1)  # fmt: skip
    _, error = program("evaluate", "--pose=stage", "--data=x", "--baselines", status=1)
    assert "only motion networks have --baselines" in error
    pose = tmp_path / "pose"
    pose.mkdir()
    content = {"config": defaults.pose().to_dict(), "classes": []}
    (pose / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="a pose network; only motion networks have --views"):
        results.evaluate([pose], "val", with_baselines=True)

    changed = tmp_path / "changed"
    shutil.copytree(trained, changed)
    content = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(content | {"data": "0" * 16}))
    with pytest.raises(UserError, match=r"is not the data that .* was trained on"):
        results.evaluate([changed], "val", with_baselines=True)
    content["config"]["data"]["dir"] = str(tmp_path / "gone")
    (changed / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"--baselines needs the training data of .*no such file"):
        results.evaluate([changed], "val", data=str(tiny_data), with_baselines=True)

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"needs scikit-learn, .* pip install -e '.\[baselines\]'"):
        results.evaluate([trained], "val", with_baselines=True)


def test_training_data_of_one_class_is_refused(tiny_data, monkeypatch):
    train, one = records.Dataset(tiny_data), np.zeros(45, np.int32)
    examples = Examples(np.ones((45, 2), np.float32), np.ones(45, bool), one)
    monkeypatch.setattr(baselines, "read", lambda *arguments: examples)
    with pytest.raises(UserError, match="people of two classes in the split train"):
        baselines.compare(defaults.base(), train.classes, train, train, "val", {}, np.zeros(0))
