# CIFAR-10 as the archive of its authors, cifar-10-python.tar.gz, unpacked in data_root:
#   cifar-10-batches-py/{data_batch_1,...,test_batch}
_base_ = 'cifar100.py'
data_root = 'data/cifar10'
data_preprocessor = dict(num_classes=10, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_dataloader = dict(dataset=dict(type='CIFAR10', data_root=data_root))
val_dataloader = dict(dataset=dict(type='CIFAR10', data_root=data_root))
test_dataloader = val_dataloader
