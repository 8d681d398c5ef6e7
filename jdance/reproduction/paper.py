"""The numbers that the paper prints (Shen et al., 2021), to be shown beside ours."""

# Table 1: persons by class, to train and to test. The sixth class has no name in the paper; it is
# called "stand" here.
COUNTS = {
    "akimbo": (795, 88),
    "hold_high": (470, 51),
    "single_arm_open": (470, 52),
    "wave": (250, 27),
    "walk": (647, 71),
    "stand": (568, 61),
}

# Table 2: accuracy of each class. Those of wave and walk are no possible shares of 27 and 71, and
# the sixth is not printed.
PER_CLASS = {
    "akimbo": 0.989,
    "hold_high": 0.843,
    "single_arm_open": 0.942,
    "wave": 0.843,
    "walk": 0.966,
}

# Table 4: mean accuracy, by the names of `plan.variants`.
ACCURACY = {"proposed": 0.926, "STR": 0.789, "QES": 0.893}

FRAMES_PER_SECOND = 0.75  # the whole pipeline, on a Tesla P4
