"""What models are asked: `Task`, and the tasks that can be named."""

from mdjax.tasks.contract import Factors, Guess, Task, form_of
from mdjax.tasks.named import (
    CLASSIFICATION,
    MOST_CLASSES,
    TASKS,
    Classification,
    MultiLabel,
    NextToken,
    Regression,
    cross_entropy,
    task_of,
)

__all__ = [
    "CLASSIFICATION",
    "MOST_CLASSES",
    "TASKS",
    "Classification",
    "Factors",
    "Guess",
    "MultiLabel",
    "NextToken",
    "Regression",
    "Task",
    "cross_entropy",
    "form_of",
    "task_of",
]
