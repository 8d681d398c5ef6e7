"""Whether a data set is as it was written: checksums first, then every record."""

from pathlib import Path

from jdance.data import people, records
from jdance.errors import UserError


def verify(folder: Path) -> tuple[int, list[str]]:
    """Reads all of a data set.

    Returns:
        The number of sound examples, and a line about each shard or example that is damaged.

    Raises:
        UserError: the folder holds no data set.
    """
    dataset = records.Dataset(folder, kind="")
    problems = list(dataset.damage())
    damaged = {problem.partition(":")[0] for problem in problems}
    unpack = people.unpack if dataset.info["kind"] == "people" else records.unpack
    good = 0
    for split, part in dataset.info["splits"].items():
        if any(str(folder / shard) in damaged for shard in part["shards"]) or not part["count"]:
            continue  # its other shards are as they were written, or there are none
        source = dataset.source(split)
        for i in range(len(source)):
            try:
                example = unpack(source[i])
                if example.image is not None:
                    records.decode_image(example.image)
                good += 1
            except UserError as error:
                problems.append(f"{folder}: example {i} of {split}: {error}")
    return good, problems
