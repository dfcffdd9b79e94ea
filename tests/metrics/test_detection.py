"""Measures of detection against scikit-learn's, ties included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from advreg.metrics import aupr, auroc, fpr_at_tpr


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns_ties_included(pairs):
    scores, positive = zip(*pairs, strict=True)
    if len(set(positive)) == 2:
        ours = auroc(torch.tensor(scores, dtype=torch.float32), torch.tensor(positive))
        assert ours.item() == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([0.1, 0.5, 0.95, 1.0]),
)
def test_aupr_and_fpr_are_scikit_learns_ties_included(pairs, share):
    scores, positive = zip(*pairs, strict=True)
    if len(set(positive)) == 2:
        given_ = torch.tensor(scores, dtype=torch.float32), torch.tensor(positive)
        assert aupr(*given_).item() == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
        fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
        assert fpr_at_tpr(*given_, tpr=share).item() == pytest.approx(fpr[tpr >= share].min(), abs=1e-12)
