import pytest
import torch

from kdmm.evaluation import JointAccuracy

CLASSES = 3


def naive(batches) -> dict[str, float]:
    """Image by image and view by view."""
    found: dict[str, list[float]] = {}
    for joint, labels in batches:
        for name, logits in joint.items():
            for image, label in enumerate(labels.tolist()):
                for turn in range(4):
                    row = logits[4 * image + turn].tolist()
                    hit = row.index(max(row)) == 4 * label + turn
                    found.setdefault(f'joint/{name}', []).append(float(hit))
                upright = logits[4 * image].tolist()
                scores = [sum(upright[4 * c : 4 * c + 4]) for c in range(CLASSES)]
                found.setdefault(f'class/{name}', []).append(scores.index(max(scores)) == label)
    means = {key: 100 * sum(hits) / len(hits) for key, hits in found.items()}
    means['joint/sum'] = sum(value for key, value in means.items() if 'joint' in key)
    return means


def batch(size: int, names=('stage1', 'stage3')):
    labels = torch.randint(0, CLASSES, (size,))
    joint = {name: torch.randn(4 * size, 4 * CLASSES) for name in names}
    for logits in joint.values():  # right more often than by chance, and not in all the same
        for row in range(4 * size):
            if torch.rand(()) < 0.5:
                logits[row, 4 * labels[row // 4] + row % 4] += 3
    return joint, labels


@pytest.mark.parametrize('sizes', [(8,), (7, 5, 1)])
def test_naive_loop(sizes):
    """Whatever the batches: each image counts the same."""
    torch.manual_seed(0)
    batches = [batch(size) for size in sizes]
    metric = JointAccuracy()
    for joint, labels in batches:
        metric.process(joint, labels)
    found, expected = metric.evaluate(sum(sizes)), naive(batches)
    assert found == pytest.approx(expected)
    assert list(found)[-1] == 'joint/sum' and len(set(found.values())) > 2
    assert all(0 < value < 200 for value in found.values())


def test_a_second_evaluation_starts_anew():
    torch.manual_seed(1)
    metric, batches = JointAccuracy(), [batch(6), batch(6)]
    for joint, labels in batches:
        metric.process(joint, labels)
        assert metric.evaluate(6) == pytest.approx(naive([(joint, labels)]))


def test_padding_of_the_last_batch_is_left_out():
    """Samplers of several ranks repeat images to fill the last round."""
    torch.manual_seed(2)
    (joint, labels), metric = batch(6), JointAccuracy()
    metric.process(joint, labels)
    cut = {name: logits[:16] for name, logits in joint.items()}
    assert metric.evaluate(4) == pytest.approx(naive([(cut, labels[:4])]))


def test_words_on_view_and_class():
    """One image of class 1: all four views right, the class of the upright one wrong."""
    logits = torch.zeros(4, 4 * CLASSES)
    for turn in range(4):
        logits[turn, 4 + turn] = 2.0
    logits[0, :4] = 1.0  # together more than the best single one
    metric = JointAccuracy()
    metric.process(dict(stage1=logits), torch.tensor([1]))
    assert metric.evaluate(1) == {'joint/stage1': 100.0, 'class/stage1': 0.0, 'joint/sum': 100.0}
