"""Skeletons from a NumPy file: what other estimators found, alone or as sequences."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import npz, skeleton
from jdance.errors import UserError

# Short names of joints, as files often have them.
_SIDES = {"r": "right_", "l": "left_"}
_PARTS = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "hip": "hip", "kne": "knee",
          "ank": "ankle", "eye": "eye", "ear": "ear"}  # fmt: skip
_NAMES = {a + b: _SIDES[a] + _PARTS[b] for a in _SIDES for b in _PARTS} | {"face": "nose"}


class Skeletons(NamedTuple):
    """N labelled skeletons, or sequences of them.

    Fields:
        keypoints: N arrays float32 [J, 3] or, of sequences, [T, J, 3].
        labels, splits, groups: N strings each; splits and groups may be None.
        layout: what the J joints are.
        sequences: which of both it is.
    """

    keypoints: list[np.ndarray]
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None
    layout: skeleton.Layout
    sequences: bool


def read(path: Path, where: str = "", split_column: str = "split") -> Skeletons:
    """Reads a .npz file of skeletons.

    Single skeletons: `xy` [N, J, 2], `label` [N] and, optionally, `conf` [N, J]. Sequences: the
    frames of all of them joined, `xy` (or `poses`) [F, J, 2], `lengths` [N], which sum to F,
    `label` [N] and, optionally, `conf` [F, J]. Both may have `split` and `group` [N]. COCO-17,
    COCO-18, BODY_25 and MediaPipe's 33 joints become COCO-18; other layouts need `joints` [J],
    their names. x and y are in any unit, y down; without `conf` a joint at a finite place is there.

    Args:
        path: the file.
        where: "array=value": only the entries with that value in another array [N].
        split_column: the array that tells the splits.

    Raises:
        UserError: the file is something else, or an array has another shape than it should.
    """
    arrays = npz.read(path)
    sequences = "lengths" in arrays
    xy_name = "poses" if sequences and "xy" not in arrays else "xy"
    for name in (xy_name, "label", *(["lengths"] if sequences else [])):
        if name not in arrays:
            raise UserError(f"{path}: lacks the array {name!r}; needs xy, label (and conf)")
    xy, labels = arrays[xy_name], arrays["label"]
    conf = arrays.get("conf")
    if xy.ndim != 3 or xy.shape[2] != 2 or labels.ndim != 1:
        raise UserError(
            f"{path}: {xy_name} {xy.shape}, label {labels.shape}: expected [N, J, 2] and [N]"
        )
    if conf is None:
        conf = np.ones(xy.shape[:2], np.float32)
    if (
        xy.dtype.kind not in "fiu"
        or conf.dtype.kind not in "fiu"
        or (labels.dtype.kind not in "fiuUb")
    ):
        raise UserError(f"{path}: xy and conf must be numbers, label numbers or (unicode) strings")
    if conf.shape != xy.shape[:2]:
        raise UserError(f"{path}: conf {conf.shape}: expected {xy.shape[:2]}, as {xy_name} has")
    joined, layout = _keypoints(path, arrays, np.concatenate([xy, conf[..., None]], -1))
    keypoints = list(joined)
    if sequences:
        lengths = arrays["lengths"]
        if lengths.dtype.kind not in "iu" or lengths.shape != labels.shape or lengths.min() < 1:
            raise UserError(f"{path}: lengths: expected [{len(labels)}] positive whole numbers")
        if lengths.sum() != len(xy):
            raise UserError(f"{path}: lengths sum to {lengths.sum()}, but {xy_name} has {len(xy)}")
        keypoints = np.split(joined, np.cumsum(lengths)[:-1])
    if len(keypoints) != len(labels):
        raise UserError(f"{path}: {len(keypoints)} skeletons with {len(labels)} labels")
    chosen = _chosen(path, arrays, where, len(labels))
    return Skeletons(
        [keypoints[i] for i in chosen],
        [str(labels[i]) for i in chosen],
        _column(path, arrays, split_column, chosen, len(labels), required=split_column != "split"),
        _column(path, arrays, "group", chosen, len(labels)),
        layout,
        sequences,
    )


def _keypoints(
    path: Path, arrays: Mapping[str, np.ndarray], keypoints: np.ndarray
) -> tuple[np.ndarray, skeleton.Layout]:
    """Key points [..., J, 3] in one of our layouts, told by the joints' names or their number."""
    count = keypoints.shape[-2]
    if "joints" in arrays:
        names = tuple(_NAMES.get(str(name), str(name)) for name in arrays["joints"].ravel())
        for layout in skeleton.LAYOUTS.values():
            if set(names) == set(layout.joints) and len(names) == count:
                order = [names.index(joint) for joint in layout.joints]
                return skeleton.clean(keypoints[..., order, :]), layout
    try:
        return skeleton.to_coco18(keypoints), skeleton.COCO18
    except ValueError:
        known = "; ".join(f"{n}: {', '.join(x.joints)}" for n, x in skeleton.LAYOUTS.items())
        raise UserError(
            f"{path}: {count} joints, a layout that is not known; name them in an array `joints` "
            f"({known})"
        ) from None


def _chosen(path: Path, arrays: Mapping[str, np.ndarray], where: str, count: int) -> list[int]:
    if not where:
        return list(range(count))
    name, _, value = where.partition("=")
    if name not in arrays or arrays[name].shape != (count,):
        fitting = sorted(key for key, array in arrays.items() if array.shape == (count,))
        raise UserError(f"--where={where}: {path} has the columns {', '.join(fitting)}")
    return [i for i in range(count) if str(arrays[name][i]) == value]


def _column(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    name: str,
    chosen: list[int],
    count: int,
    required: bool = False,
) -> list[str] | None:
    if name not in arrays:
        if required:
            raise UserError(f"--split_column={name}: {path} has the arrays {', '.join(arrays)}")
        return None
    if arrays[name].shape != (count,):
        raise UserError(f"{path}: {name} {arrays[name].shape}: expected [{count}]")
    return [str(arrays[name][i]) for i in chosen]
