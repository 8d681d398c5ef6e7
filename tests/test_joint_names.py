"""Skeleton files: joints by name in any order, missing joints, and units of x and y."""

import numpy as np
import pytest

from jdance import features, skeleton
from jdance.data import skeleton_npz
from jdance.data.sources import open_source
from jdance.errors import UserError

COCO17 = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip
H36M = [
    "Hip", "RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot", "Spine", "Thorax", "Neck/Nose",
    "Head", "LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist",
]  # fmt: skip
KINECT = [
    "SpineBase", "SpineMid", "Neck", "Head", "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
    "ShoulderRight", "ElbowRight", "WristRight", "HandRight", "HipLeft", "KneeLeft", "AnkleLeft",
    "FootLeft", "HipRight", "KneeRight", "AnkleRight", "FootRight", "SpineShoulder", "HandTipLeft",
    "ThumbLeft", "HandTipRight", "ThumbRight",
]  # fmt: skip
NTU = [
    "base of the spine", "middle of the spine", "neck", "head", "left shoulder", "left elbow",
    "left wrist", "left hand", "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot", "right hip", "right knee", "right ankle",
    "right foot", "spine", "tip of the left hand", "left thumb", "tip of the right hand",
    "right thumb",
]  # fmt: skip
BODY25 = [
    "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "MidHip",
    "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar", "LBigToe",
    "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
]  # fmt: skip
MEDIAPIPE = [
    "NOSE", "LEFT_EYE_INNER", "LEFT_EYE", "LEFT_EYE_OUTER", "RIGHT_EYE_INNER", "RIGHT_EYE",
    "RIGHT_EYE_OUTER", "LEFT_EAR", "RIGHT_EAR", "MOUTH_LEFT", "MOUTH_RIGHT", "LEFT_SHOULDER",
    "RIGHT_SHOULDER", "LEFT_ELBOW", "RIGHT_ELBOW", "LEFT_WRIST", "RIGHT_WRIST", "LEFT_PINKY",
    "RIGHT_PINKY", "LEFT_INDEX", "RIGHT_INDEX", "LEFT_THUMB", "RIGHT_THUMB", "LEFT_HIP",
    "RIGHT_HIP", "LEFT_KNEE", "RIGHT_KNEE", "LEFT_ANKLE", "RIGHT_ANKLE", "LEFT_HEEL", "RIGHT_HEEL",
    "LEFT_FOOT_INDEX", "RIGHT_FOOT_INDEX",
]  # fmt: skip
MPII = [
    "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "thorax", "upper_neck",
    "head_top", "r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist",
]  # fmt: skip
WHOLEBODY = [
    *COCO17, "left_big_toe", "left_small_toe", "left_heel", "right_heel",
    *(f"face-{i}" for i in range(68)), "left_hand_root",
    *(f"left_{f}{i}" for f in ("thumb", "forefinger", "middle_finger") for i in range(1, 5)),
]  # fmt: skip
JHMDB = [
    "neck", "belly", "face", "rsho", "lsho", "rhip", "lhip", "relb", "lelb", "rkne", "lkne", "rwri",
    "lwri", "rank", "lank",
]  # fmt: skip

# Position of each COCO-18 joint.
POSITIONS = {name: np.array([10.0 + 7 * i, 400 - 11 * i]) for i, name in enumerate(skeleton.NAMES)}
SYNONYMS = {"spine_shoulder": "neck", "upper_neck": "neck", "left_foot": "left_ankle",
         "right_foot": "right_ankle"}  # fmt: skip


def skeletons(names, count=4):
    """Positions of joints by their names.

    Joints that COCO-18 lacks, and necks above a joint between the shoulders, are far away.
    """
    feet = not any("nkle" in name.lower() or "ank" in name.lower() for name in names)
    xy = np.full((count, len(names), 2), 999.0)
    for i, name in enumerate(names):
        joint = skeleton.parse_joint(name)
        assert joint is not None, name
        if "foot" in joint and not feet:
            continue
        if set(names) == set(NTU) and name == "spine":
            joint = "spine_shoulder"
        if joint == "neck" and {"SpineShoulder", "spine"} & set(names):
            continue
        joint = SYNONYMS.get(joint, joint)
        if joint in POSITIONS:
            xy[:, i] = POSITIONS[joint]
    return xy


def spelled(name, how):
    words = name.split("_")
    if how == "camel":
        return words[0] + "".join(word.title() for word in words[1:])
    if how == "letters":  # lwri
        return words[0][0] + words[1][:3] if len(words) > 1 else name
    if how == "last":
        return "_".join([*words[1:], words[0]])
    return {"spaces": " ".join(words), "upper": name.upper(), "hyphens": "-".join(words),
            "joined": "".join(words), "Title": "".join(w.title() for w in words)}[how]  # fmt: skip


@pytest.mark.parametrize("layout", [COCO17, H36M, KINECT, NTU, BODY25, MEDIAPIPE, MPII, WHOLEBODY])
@pytest.mark.parametrize("order", ["as it is", "by the alphabet"])
def test_named_joints_are_converted(tmp_path, layout, order):
    names = sorted(layout) if order == "by the alphabet" else layout
    np.savez(tmp_path / "s.npz", xy=skeletons(names), label=np.arange(4) % 2, joints=names)
    found = skeleton_npz.read(tmp_path / "s.npz")
    assert found.layout is skeleton.COCO18
    middle = (POSITIONS["left_shoulder"] + POSITIONS["right_shoulder"]) / 2
    for i, name in enumerate(skeleton.NAMES):
        x, y, score = found.keypoints[0][i]
        expected = middle if name == "neck" and layout in (COCO17, MEDIAPIPE, WHOLEBODY) else (
            POSITIONS[name])  # fmt: skip
        if score:
            np.testing.assert_allclose([x, y], expected, atol=1e-3)
        else:  # missing in the layout
            assert name in ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
    assert (found.keypoints[0][:, 2] > 0).sum() >= 13


@pytest.mark.parametrize(
    "how", ["camel", "letters", "last", "spaces", "upper", "hyphens", "joined", "Title"]
)
def test_spellings_of_names(how):
    for name in COCO17:
        assert skeleton.parse_joint(spelled(name, how)) == name


@pytest.mark.parametrize(
    ("name", "joint"),
    [("SPINESHOULDER", "spine_shoulder"), ("HANDTIP_LEFT", ""), ("SPINEMID", ""),
     ("PoseLandmark.LEFT_WRIST", "left_wrist"), ("keypoint_nose", "nose"), ("BodyCenter", ""),
     ("JointType_KneeRight", "right_knee"), ("3: left_hip", "left_hip")],
)  # fmt: skip
def test_names_of_other_libraries(name, joint):
    assert skeleton.parse_joint(name) == joint


@pytest.mark.parametrize(("count", "notes"), [(17, 1), (18, 0), (25, 1), (33, 0)])
def test_ambiguous_joint_counts_are_noted(tmp_path, count, notes):
    arrays = {"xy": np.random.default_rng(0).uniform(1, 500, (4, count, 2)), "label": np.arange(4)}
    np.savez(tmp_path / "s.npz", **arrays)
    found = skeleton_npz.read(tmp_path / "s.npz")
    assert len(found.notes) == notes and found.layout is skeleton.COCO18
    assert all(f"{count} joints without names are read as" in note for note in found.notes)


def test_jhmdb_layout_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    xy, lengths = rng.uniform(-1, 1, (9, 15, 2)), np.array([4, 5])
    order = rng.permutation(15)
    np.savez(tmp_path / "a.npz", poses=xy, lengths=lengths, label=[0, 1], joints=JHMDB)
    np.savez(tmp_path / "b.npz", poses=xy[:, order], lengths=lengths, label=[0, 1],
             joints=np.array(JHMDB)[order].astype("S"))  # fmt: skip
    a, b = (skeleton_npz.read(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert a.layout is b.layout is skeleton.JHMDB15
    np.testing.assert_array_equal(np.concatenate(a.keypoints), np.concatenate(b.keypoints))


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ([f"kp{i}" for i in range(17)], "unknown names of joints: kp0, kp1"),
        ([*COCO17[:-1], "tail"], "unknown names of joints: tail"),
        ([*COCO17[:-1], "l_ankle"], "left_ankle and l_ankle are the same joint"),
        ([*COCO17[:-1], "head"], "no joint is called right_ankle"),
        (COCO17[:-1], "16 names for 17 joints"),
        (np.arange(17), "expected the names of the joints"),
    ],
)
def test_invalid_names_raise(tmp_path, joints, message):
    np.savez(tmp_path / "s.npz", xy=np.ones((4, 17, 2)), label=np.arange(4) % 2, joints=joints)
    with pytest.raises(UserError, match=message):
        skeleton_npz.read(tmp_path / "s.npz")


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mark", [(0, 0), (-1, -1), (np.nan, np.nan)])
def test_missing_joints_are_inferred(tmp_path, mark, sequences):
    xy = np.random.default_rng(0).uniform(1, 500, (6, 17, 2))
    xy[2, 9], xy[3] = mark, mark
    arrays = {"xy": xy, "label": np.arange(6) % 2}
    if sequences:
        arrays |= {"lengths": np.array([4, 2]), "label": np.arange(2)}
    np.savez(tmp_path / "s.npz", **arrays)
    found = np.concatenate(skeleton_npz.read(tmp_path / "s.npz").keypoints).reshape(-1, 18, 3)
    assert not found[2, skeleton.L_WRIST].any() and not found[3].any()
    assert (found[[0, 1, 4, 5], :, 2] == 1).all() and found[2, :, 2].sum() == 17
    # Scores or visibility take precedence.
    np.savez(tmp_path / "s.npz", **arrays, conf=np.isfinite(xy[..., 0]))
    seen = np.concatenate(skeleton_npz.read(tmp_path / "s.npz").keypoints).reshape(-1, 18, 3)
    assert (seen[2, skeleton.L_WRIST, 2] == 1) == np.isfinite(mark[0])
    np.savez(tmp_path / "s.npz", **arrays, conf=np.ones((6, 17)))
    found = np.concatenate(skeleton_npz.read(tmp_path / "s.npz").keypoints).reshape(-1, 18, 3)
    assert found[2, skeleton.L_WRIST, 2] == np.isfinite(mark[0])


def test_origin_is_a_position_in_centered_skeletons(tmp_path):
    xy = np.random.default_rng(0).uniform(-1, 1, (6, 18, 2))
    xy[:, skeleton.NECK] = 0
    np.savez(tmp_path / "s.npz", xy=xy, label=np.arange(6) % 2)
    assert np.stack(skeleton_npz.read(tmp_path / "s.npz").keypoints)[..., 2].all()


@pytest.mark.parametrize("sequences", [False, True])
def test_size_undoes_the_division_by_width_and_height(tmp_path, sequences):
    """Coordinates as of MediaPipe give the same features as pixels."""
    rng = np.random.default_rng(0)
    size = rng.integers(300, 2000, (6, 2))
    pixels = rng.uniform(0, 1, (6, 33, 2)) * size[:, None]
    arrays = {"label": np.arange(6) % 2}
    if sequences:
        size[1:3], size[4:] = size[0], size[3]
        pixels = rng.uniform(0, 1, (6, 33, 2)) * size[:, None]
        arrays = {"label": np.arange(2), "lengths": np.array([3, 3])}
    np.savez(tmp_path / "pixels.npz", xy=pixels, **arrays)
    expected = skeleton_npz.read(tmp_path / "pixels.npz")
    given = size[[0, 3]] if sequences else size
    for name, xy in (("fractions", pixels / size[:, None]), ("pixels too", pixels)):
        np.savez(tmp_path / "s.npz", xy=xy, size=given, **arrays)
        found = skeleton_npz.read(tmp_path / "s.npz")
        assert not found.notes
        np.testing.assert_allclose(
            features.compute("fused18", np.concatenate(found.keypoints).reshape(-1, 18, 3)),
            features.compute("fused18", np.concatenate(expected.keypoints).reshape(-1, 18, 3)),
            atol=1e-3, err_msg=name,
        )  # fmt: skip
    np.savez(tmp_path / "s.npz", xy=pixels / size[:, None], **arrays)
    source = open_source(str(tmp_path / "s.npz"))
    assert len(source.notes) == 1 and "add the array `size`" in source.notes[0]
    assert not expected.notes
    for wrong in (size[:2, :1], -given, size.astype(str)):
        np.savez(tmp_path / "s.npz", xy=pixels, size=wrong, **arrays)
        with pytest.raises(UserError, match=r"s\.npz: size"):
            skeleton_npz.read(tmp_path / "s.npz")
