# The accuracy on the training images, to be told by tools/test.py of any arm's file of a ResNet-8.
_base_ = '../mcl_okd/cifar10_small_alone_on_train.py'
