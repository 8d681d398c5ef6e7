"""StageDance: exact ground truth, feasible bodies, exact plans, and no label leaks."""

from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from jdance import features, skeleton
from jdance.errors import UserError
from jdance.stagedance import stage, video
from jdance.stagedance.body import LIMITS
from jdance.stagedance.camera import stage_camera

SIZE = {"width": 320, "height": 240}
CHANCE = 1 / len(stage.MOTIONS)


@pytest.fixture(scope="module")
def scenes():
    return [stage.render_scene(1, g, index, **SIZE) for g in range(12) for index in range(3)]


def _project(camera, points):
    """Pinhole projection by a 3x4 matrix: [N, 3] in meters -> [N, 2] in pixels."""
    intrinsic = np.array([
        [camera.focal, 0, camera.center[0]], [0, camera.focal, camera.center[1]], [0, 0, 1],
    ])  # fmt: skip
    extrinsic = np.c_[camera.rotation, -camera.rotation @ camera.position]
    seen = intrinsic @ extrinsic @ np.c_[points, np.ones(len(points))].T
    return (seen[:2] / seen[2]).T


def _angle(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_scene_is_well_formed(scenes):
    for scene in scenes:
        assert scene.image.shape == (240, 320, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.dancers) <= stage.MAX_DANCERS
        for dancer in scene.dancers:
            assert dancer.keypoints.shape == (18, 3) and dancer.keypoints.dtype == np.float32
            assert stage.MOTIONS[dancer.label] == dancer.motion
            present = dancer.keypoints[:, 2] > 0
            assert not (dancer.visible & ~present).any()
            assert not dancer.keypoints[~present].any()
            assert (dancer.keypoints[present, :2] <= (319, 239)).all()
            assert (dancer.keypoints[present, :2] >= 0).all()


def test_scene_is_a_pure_function():
    first = stage.render_scene(3, 5, 2, **SIZE)
    stage.get_stage.cache_clear()
    stage.get_troupe.cache_clear()
    stage.render_scene(3, 6, 0, **SIZE)
    second = stage.render_scene(3, 5, 2, **SIZE)
    np.testing.assert_array_equal(first.image, second.image)
    for a, b in zip(first.dancers, second.dancers, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
    assert not np.array_equal(first.image, stage.render_scene(4, 5, 2, **SIZE).image)


def test_keypoints_are_the_projected_joints(scenes):
    seen = 0
    for scene in scenes:
        for dancer in scene.dancers:
            present = dancer.keypoints[:, 2] > 0
            expected = _project(scene.camera, dancer.joints)
            np.testing.assert_allclose(
                dancer.keypoints[present, :2], expected[present], rtol=0, atol=1e-3
            )
            seen += present.sum()
    assert seen > 500


def test_image_scales_with_its_size():
    small, large = (stage.render_scene(2, 1, 0, width=w, height=w * 3 // 4) for w in (320, 640))
    for a, b in zip(small.dancers, large.dancers, strict=True):
        np.testing.assert_allclose(a.joints, b.joints)
        both = (a.keypoints[:, 2] > 0) & (b.keypoints[:, 2] > 0)
        np.testing.assert_allclose(
            (a.keypoints[both, :2] + 0.5) * 2, b.keypoints[both, :2] + 0.5, atol=1e-2
        )


def _pose_at(yaw, motion="stand", seed=0):
    rng = np.random.default_rng(seed)
    build = stage.random_build(rng)
    pose = stage.random_pose(motion, build, rng)
    return build, pose, stage.assemble(build, pose, (0.0, 0.0), yaw)


def test_right_side_is_left_in_front_views():
    camera = stage_camera(1.5, 5.0, 0.0, 1.0, 400.0, (320, 240))
    for seed in range(10):
        xy, _ = camera.project(_pose_at(0.0, seed=seed)[2].joints)
        for right, left in ((2, 5), (8, 11), (14, 15), (16, 17)):
            assert xy[right, 0] < xy[left, 0]
        assert xy[skeleton.NOSE, 1] < xy[skeleton.NECK, 1] < xy[skeleton.R_HIP, 1]
        away, _ = camera.project(_pose_at(180.0, seed=seed)[2].joints)
        assert away[skeleton.R_SHOULDER, 0] > away[skeleton.L_SHOULDER, 0]


def test_positive_yaw_turns_the_face_to_the_right():
    camera = stage_camera(1.5, 5.0, 0.0, 1.0, 400.0, (320, 240))
    body = _pose_at(60.0)[2]
    xy, depth = camera.project(body.joints)
    assert xy[skeleton.NOSE, 0] > xy[[skeleton.R_EAR, skeleton.L_EAR], 0].mean()
    assert depth[skeleton.L_SHOULDER] > depth[skeleton.R_SHOULDER]


def test_mirrored_pose_is_the_flipped_skeleton():
    camera = stage_camera(1.5, 5.0, 0.0, 1.0, 400.0, (320, 240))
    odd = {"pelvis_roll", "spine_side", "spine_twist", "neck_yaw", "neck_roll"}
    for seed, motion in enumerate(stage.MOTIONS):
        build, pose, body = _pose_at(35.0, motion, seed)
        mirrored = {
            name: -value if name in odd else value[::-1] if value.ndim else value
            for name, value in pose.items()
        }
        twin = stage.assemble(build, mirrored, (0.0, 0.0), -35.0)
        ones = np.ones((18, 1))
        keypoints, expected = (
            np.concatenate([camera.project(b.joints)[0], ones], 1) for b in (twin, body)
        )
        np.testing.assert_allclose(keypoints, skeleton.flip(expected, 320), atol=1e-3)


@pytest.mark.parametrize("motion", stage.MOTIONS)
def test_every_angle_is_within_human_limits(motion):
    rng = np.random.default_rng(7)
    for _ in range(60):
        build = stage.random_build(rng)
        pose = stage.random_pose(motion, build, rng)
        for name, (low, high) in LIMITS.items():
            assert (pose[name] >= low).all() and (pose[name] <= high).all(), name
        body = stage.assemble(build, pose, (0.3, -0.5), rng.uniform(-70, 70))
        j = body.joints
        # The same from the joints alone.
        for hip, shoulder in ((8, 2), (11, 5)):
            elbow = _angle(j[shoulder + 1] - j[shoulder], j[shoulder + 2] - j[shoulder + 1])
            thigh, shank = j[hip + 1] - j[hip], j[hip + 2] - j[hip + 1]
            assert elbow <= 150.01
            assert _angle(thigh, shank) <= 150.01
            np.testing.assert_allclose(np.linalg.norm(thigh), build.thigh)
            np.testing.assert_allclose(
                np.linalg.norm(j[shoulder + 1] - j[shoulder]), build.upper_arm
            )
            # Knees bend backward only: about an axis to the body's left.
            assert np.cross(thigh, shank) @ body.pelvis[:, 0] > -1e-9
        lowest = min(j[skeleton.R_ANKLE, 1], j[skeleton.L_ANKLE, 1])
        np.testing.assert_allclose(lowest, build.ankle, atol=1e-9)
        assert min(body.toes[:, 1].min(), body.heels[:, 1].min()) > -0.02
        assert 0.7 * build.height < body.skull[1] < build.height


def test_poses_match_their_motion():
    rng = np.random.default_rng(3)
    for motion in stage.MOTIONS:
        for _ in range(40):
            build = stage.random_build(rng)
            j = stage.assemble(build, stage.random_pose(motion, build, rng), (0, 0), 0.0).joints
            wrists, hips = j[[4, 7]], j[[8, 11]]
            shoulders = j[[2, 5]]
            up = (wrists[:, 1] - shoulders[:, 1]) / build.height
            if motion == "akimbo":
                assert np.linalg.norm(wrists - hips, axis=1).min() < 0.13 * build.height
            elif motion == "hold_high":
                assert wrists[:, 1].max() > j[skeleton.NOSE, 1]
            elif motion == "single_arm_open":
                reach = np.linalg.norm((wrists - shoulders)[:, [0, 2]], axis=1) / build.height
                assert reach.max() > 0.22 and up.min() < -0.1
            elif motion == "wave":
                assert up.max() > -0.1 and up.min() < -0.1
            else:
                assert up.max() < -0.05


def test_hidden_and_outside_joints_are_missing(scenes):
    hidden = sum(
        (~dancer.visible & (dancer.keypoints[:, 2] > 0)).sum()
        for scene in scenes
        for dancer in scene.dancers
    )
    assert hidden > 0  # some joints lie behind the dancer's own body
    # With one dancer per scene only the face and the image's edge take joints away.
    for group in range(8):
        scene = stage.render_scene(1, group, 0, motions=[4], **SIZE)
        (dancer,) = scene.dancers
        inside = _project(scene.camera, dancer.joints)
        inside = ((inside >= 0) & (inside <= (319, 239))).all(1)
        body = np.arange(1, 14)
        missing = dancer.keypoints[body, 2] == 0
        if not stage.get_stage(1, group, 320, 240).crowd.any():
            np.testing.assert_array_equal(missing, ~inside[body])


def test_far_side_of_the_face_is_missing():
    for index in range(40):
        scene = stage.render_scene(9, 0, index, motions=[5], **SIZE)
        (dancer,) = scene.dancers
        head = dancer.joints[[skeleton.R_EAR, skeleton.L_EAR]]
        nearer = np.linalg.norm(head - scene.camera.position, axis=1).argmin()
        ears = dancer.keypoints[[skeleton.R_EAR, skeleton.L_EAR], 2]
        gap = np.ptp(np.linalg.norm(head - scene.camera.position, axis=1))
        if gap > 0.08:
            assert ears[nearer] == 1 and ears[1 - nearer] == 0


@pytest.mark.parametrize("preset", sorted(stage.PRESETS))
def test_plan_has_exact_counts_and_disjoint_groups(preset):
    planned = stage.plan_scenes(preset, 4)
    counts = {split: Counter() for split in stage.PRESETS[preset]}
    splits = {}
    for item in planned:
        assert 1 <= len(item.motions) <= stage.MAX_DANCERS
        counts[item.split].update(stage.MOTIONS[m] for m in item.motions)
        assert splits.setdefault(item.group, item.split) == item.split
    assert counts == {split: Counter(c) for split, c in stage.PRESETS[preset].items()}
    sizes = Counter(item.group for item in planned)
    assert max(sizes.values()) <= 15
    assert sum(n < 8 for n in sizes.values()) <= len(counts)
    assert len({(item.group, item.index) for item in planned}) == len(planned)
    assert planned == stage.plan_scenes(preset, 4)
    assert planned != stage.plan_scenes(preset, 5)


def test_given_motions_change_only_the_pose():
    one, two = (stage.render_scene(1, 2, 3, motions=m, **SIZE) for m in ([0, 1, 2], [5, 4, 3]))
    assert [d.label for d in one.dancers] == [0, 1, 2]
    for a, b in zip(one.dancers, two.dancers, strict=True):
        assert (a.root, a.height) == (b.root, b.height)


@pytest.mark.parametrize(
    "arguments",
    [
        {"motions": []},
        {"motions": [0] * 7},
        {"motions": [6]},
        {"motions": [-1]},
        {"width": 8},
        {"seed": -1},
    ],
)
def test_invalid_arguments_raise(arguments):
    with pytest.raises(UserError):
        stage.render_scene(**{"seed": 0, "group": 0, "index": 0, **arguments})


def test_unknown_preset_raises():
    with pytest.raises(UserError, match="paper, pose, quickstart"):
        stage.plan_scenes("huge", 0)


def _skeletons(count, seed):
    """Exact key points [N, 18, 3] and labels [N] of single dancers in random views."""
    rng = np.random.default_rng(seed)
    keypoints, labels = [], np.arange(count) % len(stage.MOTIONS)
    for label in labels:
        build = stage.random_build(rng)
        pose = stage.random_pose(stage.MOTIONS[label], build, rng)
        (position,), (yaw,) = stage.place_dancers(rng, 1, 4.0)
        body = stage.assemble(build, pose, position, yaw)
        camera = stage_camera(rng.uniform(0.9, 2.5), 6.0, 0.0, 1.0, 800.0, (640, 480))
        keypoints.append(np.c_[camera.project(body.joints)[0], np.ones(18)])
    return np.array(keypoints, np.float32), labels


def test_difficulty():
    """Nearest class means fail; a nonlinear classifier succeeds."""
    train, labels = _skeletons(3000, 0)
    test, truth = _skeletons(900, 1)
    a, b = (np.asarray(features.compute("fused18", k)) for k in (train, test))
    assert NearestCentroid().fit(a, labels).score(b, truth) < 0.78
    assert make_pipeline(StandardScaler(), SVC(C=10)).fit(a, labels).score(b, truth) > 0.94


def _surroundings(scene, dancer):
    """Crop around a dancer with the body's reach masked, and the dancer's position.

    Crop and mask depend on root and upright height only, not on the pose.
    """
    side = 16
    zoom = side / (2.4 * dancer.height)
    x, y = dancer.root
    move = np.array([[zoom, 0, side / 2 - x * zoom], [0, zoom, side / 2 - y * zoom]])
    cut = cv2.warpAffine(scene.image, move, (side, side)).astype(np.float32) / 255
    distance = np.hypot(*(np.mgrid[:side, :side] + 0.5 - side / 2))
    cut[distance < 0.86 * side / 2.4] = 0.5
    position = [dancer.height / 120, x / 160, y / 120, len(scene.dancers) / 6]
    return np.concatenate([cut.ravel(), position])


def test_surroundings_do_not_reveal_the_motion():
    rng = np.random.default_rng(0)
    inputs, labels, groups = [], [], []
    for group in range(60):
        for index in range(6):
            motions = rng.permutation(6)[: rng.integers(1, 7)]
            scene = stage.render_scene(11, group, index, motions=motions, width=160, height=120)
            inputs += [_surroundings(scene, dancer) for dancer in scene.dancers]
            labels += [dancer.label for dancer in scene.dancers]
            groups += [group] * len(scene.dancers)
    x, y, train = np.array(inputs), np.array(labels), np.array(groups) < 40
    for classifier in (SVC(C=3), LogisticRegression(C=0.01, max_iter=300)):
        model = make_pipeline(StandardScaler(), classifier).fit(x[train], y[train])
        assert abs(model.score(x[~train], y[~train]) - CHANCE) < 0.05


def test_video_is_a_pure_function_of_time():
    clip = video.StageVideo(3, 1, dancers=2, seconds=8, width=160, height=120)
    again = video.StageVideo(3, 1, dancers=2, seconds=8, width=160, height=120)
    np.testing.assert_array_equal(clip.render(2.5).image, again.render(2.5).image)
    for k, spans in enumerate(clip.spans):
        assert spans[0].start == 0 and spans[-1].end == 8
        assert all(a.end == b.start and a.motion != b.motion for a, b in pairwise(spans))
        middle = (spans[0].start + spans[0].end) / 2
        assert clip.render(middle).dancers[k].label == spans[0].motion


def test_dancers_in_videos_move_smoothly():
    clip = video.StageVideo(3, 2, dancers=1, seconds=6, width=160, height=120)
    times = np.arange(0, 6, 1 / 25)
    joints = np.stack([clip.render(time).dancers[0].joints for time in times])
    pace = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() * 25
    assert 0.5 < pace < 9  # meters per second


def test_invalid_videos_raise():
    with pytest.raises(UserError, match="1 to 6 dancers"):
        video.StageVideo(0, 0, dancers=9)
