"""The baselines: what they read."""

from diagnosis_tables import labelled

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree


def test_baselines_read_the_published_features():
    assert HyperparameterTree("optimizer").features == ("log_data_amount", "log_para_amount")
    assert HyperparameterTree("width").features == ("log_data_amount",)
    assert HyperparameterTree("data").features == ("log_para_amount",)
    assert ValidationTree("data").features == ("train_error", "train_loss", "test_loss", "test_error")
    assert CombinedTree("width").features == ("log_data_amount", *ValidationTree().features)
    assert LandscapeTree().features == ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")
    assert "log_para_amount" in HyperparameterTree("data").fit(*labelled("data")).export_text()
