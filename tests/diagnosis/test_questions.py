"""Questions: of which rows they are asked."""

from diagnosis_tables import zoo

from mdjax.diagnosis.questions import named


def test_questions_are_asked_of_their_rows():
    table = zoo()
    rows = named("data").rows(table)
    assert rows["width"].min() >= 32
    assert set(rows["data_vs_batch"]) == {"data", "batch"}
    assert named("data").asked(table.drop(columns="width")).all()
    assert len(named("width").rows(table.assign(width_vs_batch=None))) == 0
