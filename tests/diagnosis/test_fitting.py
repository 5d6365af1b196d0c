"""The published fit, against its rules written out."""

import numpy as np
import pytest
from diagnosis_tables import by_hand, zoo
from scipy.optimize import minimize_scalar

from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS, named


@pytest.mark.parametrize("name", QUESTIONS)
def test_fit_and_predict_follow_the_published_rules(name):
    question, rows = named(name), named(name).rows(zoo())
    labels = rows[question.label].to_numpy()
    thresholds = [split.threshold for split in question.tree]
    for i, split in enumerate(question.tree):

        def negative_accuracy(x, i=i):
            return -np.mean(by_hand(name, rows, [*thresholds[:i], x, *thresholds[i + 1 :]]) == labels)

        thresholds[i] = minimize_scalar(negative_accuracy, bounds=split.bounds, method="bounded").x
    tree = MDTree(name).fit(rows, labels)
    np.testing.assert_array_equal(tree.thresholds_, thresholds)
    fresh = zoo(seed=1)
    np.testing.assert_array_equal(tree.predict(fresh), by_hand(name, fresh, thresholds).astype(str))
