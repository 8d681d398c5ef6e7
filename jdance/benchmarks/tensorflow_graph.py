"""The published graph of mobilenet_v2_small as TensorFlow runs it."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jdance.compilation import cores
from jdance.pose import download


def load() -> Callable[[np.ndarray], Any]:
    """uint8 RGB [368, 368, 3] -> maps float32 [1, 46, 46, 57], with all cores of this process.

    Raises:
        ImportError: there is no TensorFlow.
        UserError: the graph is not at hand, see `download.find`.
    """
    tf = importlib.import_module("tensorflow").compat.v1
    definition = tf.GraphDef()
    definition.ParseFromString(download.find("mobilenet_v2_small").read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    operations = graph.get_operations()
    image = next(o for o in operations if o.type == "Placeholder").outputs[0]
    settings = tf.ConfigProto(intra_op_parallelism_threads=cores())
    session, last = tf.Session(graph=graph, config=settings), operations[-1].outputs[0]
    return lambda square: session.run(last, {image: square[None, ..., ::-1].astype(np.float32)})
