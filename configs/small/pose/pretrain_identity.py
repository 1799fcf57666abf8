# Control: nothing is shuffled, so that absolute position solves the task. What remains of a gain is
# owed to having seen the persons, not to the puzzles.
_base_ = './pretrain.py'
train_pipeline = _base_.train_pipeline
train_pipeline[5].update(p_identity=1.0)
val_pipeline = _base_.val_pipeline
val_pipeline[3].update(p_identity=1.0)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
