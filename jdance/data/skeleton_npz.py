"""Reader of .npz files with skeletons or skeleton sequences of other pose estimators."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import npz, skeleton
from jdance.errors import UserError

_AMBIGUOUS = {  # joint counts that several layouts share
    17: "17 joints without names are read as COCO's, in its order",
    25: "25 joints without names are read as OpenPose's BODY_25, in its order",
}
_LARGE = 1e4  # pixels
_MIN_NEGATIVE = 0.25  # min. fraction of negative coordinates in skeletons around an origin


class Skeletons(NamedTuple):
    """N labeled skeletons or skeleton sequences.

    Attributes:
        keypoints: N arrays float32 [J, 3], or [T, J, 3] for sequences.
        labels, splits, groups: N strings each; splits and groups may be None.
        layout: of the J joints.
        sequences: whether `keypoints` are sequences.
        notes: messages for the user, one per line.
    """

    keypoints: list[np.ndarray]
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None
    layout: skeleton.Layout
    sequences: bool
    notes: tuple[str, ...] = ()


def read(path: Path, where: str = "", split_column: str = "split") -> Skeletons:
    """Reads a .npz file of skeletons.

    Skeletons: `xy` [N, J, 2], `label` [N] and optionally `conf` [N, J]. Sequences: the concatenated
    frames `xy` (or `poses`) [F, J, 2], `lengths` [N] with sum F, `label` [N] and optionally `conf`
    [F, J]. Both may have `split` and `group` [N].

    `joints` [J] names the joints in any order, see `skeleton.from_names`. Without names, 17, 18, 25
    and 33 joints are those of COCO, COCO-18, BODY_25 and MediaPipe.

    x and y have a common unit, y points down. If x was divided by the image's width and y by its
    height (as MediaPipe does), `size` [N, 2] or [2] gives width and height. Without `conf`, joints
    are missing if they are not finite, and at (0, 0) or (-1, -1) unless skeletons are centered on
    an origin.

    Args:
        path: the file.
        where: "array=value" selects entries by another array [N].
        split_column: the array of splits.

    Raises:
        UserError: the file has another format, or an array has a wrong shape.
    """
    arrays, notes = npz.read(path), list[str]()
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
    numeric = xy.dtype.kind in "fiu" and (conf is None or conf.dtype.kind in "fiub")
    if not numeric or labels.dtype.kind not in "fiuUb":
        raise UserError(f"{path}: xy and conf must be numbers, label numbers or (unicode) strings")
    if conf is None:
        conf = _infer_scores(xy)
    if conf.shape != xy.shape[:2]:
        raise UserError(f"{path}: conf {conf.shape}: expected {xy.shape[:2]}, as {xy_name} has")
    lengths = np.ones(len(labels), int)
    if sequences:
        lengths = arrays["lengths"]
        if lengths.dtype.kind not in "iu" or lengths.shape != labels.shape or (lengths < 1).any():
            raise UserError(f"{path}: lengths: expected [{len(labels)}] positive whole numbers")
        if lengths.sum() != len(xy):
            raise UserError(f"{path}: lengths sum to {lengths.sum()}, but {xy_name} has {len(xy)}")
    elif len(xy) != len(labels):
        raise UserError(f"{path}: {len(xy)} skeletons with {len(labels)} labels")
    if "joints" not in arrays and xy.shape[1] in _AMBIGUOUS:
        notes.append(f"{path}: {_AMBIGUOUS[xy.shape[1]]}; if not, name them in an array `joints`")
    xy, note = _to_common_unit(path, arrays, xy, conf, lengths)
    notes += [note] * bool(note)
    xy = _scaled(xy)
    converted, layout = _to_layout(path, arrays, np.concatenate([xy, conf[..., None]], -1))
    keypoints = np.split(converted, np.cumsum(lengths)[:-1]) if sequences else list(converted)
    rows, count = _select(path, arrays, where, len(labels)), len(labels)
    return Skeletons(
        [keypoints[i] for i in rows],
        [str(labels[i]) for i in rows],
        _column(path, arrays, split_column, rows, count, required=split_column != "split"),
        _column(path, arrays, "group", rows, count),
        layout,
        sequences,
        tuple(notes),
    )


def _infer_scores(xy: np.ndarray) -> np.ndarray:
    """Scores float32 [N, J] of joints [N, J, 2]: 1 where a joint is present."""
    finite = np.isfinite(xy).all(-1)
    marked = ((xy == 0) | (xy == -1)).all(-1) & (xy[..., 0] == xy[..., 1])
    others = xy[finite & ~marked]
    centered = others.size and (others < 0).mean() >= _MIN_NEGATIVE
    return (finite if centered else finite & ~marked).astype(np.float32)


def _to_common_unit(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    xy: np.ndarray,
    conf: np.ndarray,
    lengths: np.ndarray,
) -> tuple[np.ndarray, str]:
    """Scales joints [F, J, 2] so that x and y have one unit; also returns a note, if any."""
    present = xy[(conf > 0) & np.isfinite(xy).all(-1)]
    fractions = bool(present.size) and np.median(abs(present)) <= skeleton.MAX_FRACTION
    if "size" not in arrays:
        inside = present.size and (present.min() >= -0.5) and np.quantile(present, 0.99) <= 1.5
        note = (
            f"{path}: x and y look like fractions of an image; if x was divided by its width and y "
            "by its height (as MediaPipe does), add the array `size` [N, 2] of widths and heights"
        )
        return xy, note if inside else ""
    size = arrays["size"]
    if size.dtype.kind not in "fiu" or size.shape not in ((2,), (len(lengths), 2), (len(xy), 2)):
        raise UserError(
            f"{path}: size {size.shape}: expected [{len(lengths)}, 2], width and height"
        )
    if not (np.isfinite(size) & (size > 0)).all():
        raise UserError(f"{path}: size: expected widths and heights above 0")
    if not fractions:  # already pixels
        return xy, ""
    if size.shape == (len(lengths), 2):
        size = np.repeat(size, lengths, axis=0)
    return xy * (size if size.ndim == 1 else size[:, None]).astype(np.float64), ""


def _scaled(xy: np.ndarray) -> np.ndarray:
    """Joints [F, J, 2] in a larger unit if they are too large for pixels."""
    finite = np.abs(xy[np.isfinite(xy)])
    typical = float(np.median(finite)) if finite.size else 0.0
    return xy * (_LARGE / typical) if typical > _LARGE else xy


def _to_layout(
    path: Path, arrays: Mapping[str, np.ndarray], keypoints: np.ndarray
) -> tuple[np.ndarray, skeleton.Layout]:
    """Converts key points [..., J, 3] to a layout, by the names or the number of joints."""
    if "joints" not in arrays:
        try:
            return skeleton.to_coco18(keypoints), skeleton.COCO18
        except ValueError:
            raise UserError(
                f"{path}: {keypoints.shape[-2]} joints, an unknown layout; name them in "
                "an array `joints`"
            ) from None
    joints = arrays["joints"].ravel()
    if joints.dtype.kind not in "US":
        raise UserError(f"{path}: joints: expected the names of the joints")
    names = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in joints.tolist()]
    try:
        return skeleton.from_names(keypoints, names)
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; expected names such as nose, neck, left_shoulder, right_wrist"
        ) from None


def _select(path: Path, arrays: Mapping[str, np.ndarray], where: str, count: int) -> list[int]:
    """Indices of the entries that match `where`."""
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
    rows: list[int],
    count: int,
    required: bool = False,
) -> list[str] | None:
    """The selected entries of an array as strings; None if it is missing."""
    if name not in arrays:
        if required:
            raise UserError(f"--split_column={name}: {path} has the arrays {', '.join(arrays)}")
        return None
    if arrays[name].shape != (count,):
        raise UserError(f"{path}: {name} {arrays[name].shape}: expected [{count}]")
    return [str(arrays[name][i]) for i in rows]
