"""Objectives of a discriminator and of the student it judges, on its scores.

Hinge: SAGAN, arXiv 1805.08318. Wasserstein: arXiv 1701.07875, as the first code of structured
distillation (arXiv 1903.04197) uses it. A discriminator's score is high where it takes logits for a
teacher's.
"""

from torch import Tensor


def hinge_discriminator(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """``mean relu(1 - D(teacher)) + mean relu(1 + D(student))``, means over all scores.

    Args:
        student_scores: Scores of the student's logits, any shape.
        teacher_scores: Scores of the teacher's logits, any shape.

    Returns:
        A scalar with gradients to both: whoever wants none to the networks detaches their logits.
    """
    return (1 - teacher_scores).relu().mean() + (1 + student_scores).relu().mean()


def hinge_generator(student_scores: Tensor) -> Tensor:
    """``-mean D(student)``, over scores of any shape; also Wasserstein's."""
    return -student_scores.mean()


def wasserstein_discriminator(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """``mean D(student) - mean D(teacher)``, without the gradient penalty that bounds D's slope.

    Args:
        student_scores: Scores of the student's logits, any shape.
        teacher_scores: Scores of the teacher's logits, any shape.

    Returns:
        A scalar with gradients to both.
    """
    return student_scores.mean() - teacher_scores.mean()
