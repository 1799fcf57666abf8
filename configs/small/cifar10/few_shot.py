# Few-shot evaluation: trained on 5 base classes, 500 images each, and evaluated on the test images
# of the 5 others, the novel ones. Every validation, and tools/test.py with a checkpoint, gives the
# mean of 600 episodes and its 95 % interval. Splits and their base classes (seed 0):
#   0  automobile cat deer frog horse        1  airplane bird dog ship truck, the others of 0
#   2  airplane automobile deer ship truck   3  bird cat dog frog horse, the others of 2
#   4  automobile bird deer ship truck
# Another split is an option of each data set; a network that was trained on classes of the
# validation or test is refused:
#   --cfg-options train_dataloader.dataset.split=1 val_dataloader.dataset.split=1
#   test_dataloader.dataset.split=1
# Logistic regression, which needs scikit-learn:
#   --cfg-options val_evaluator.classifiers=cosine,euclidean,logistic
_base_ = 'student.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kdmm.ClassSubset',
        count=5,
        split=0,
        dataset=_base_.train_dataloader.dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='kdmm.ClassSubset',
        count=5,
        split=0,
        rest=True,
        dataset=_base_.val_dataloader.dataset,
    )
)
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=5)
model = dict(head=dict(num_classes=5))
val_evaluator = dict(
    _delete_=True,
    type='kdmm.FewShotMetric',
    settings=[(5, 1), (5, 5)],
    queries=15,
    episodes=600,
    classifiers=['cosine', 'euclidean'],
)
test_evaluator = val_evaluator
default_hooks = dict(features=dict(type='kdmm.FeaturesHook'))
