# CRD (arXiv 1910.10699): contrast with the teacher against banks of both networks' embeddings,
# which are linear in what the classifiers read. `num_samples` is CIFAR's; negatives are different
# images, as the authors draw them as long as there are enough.
kd = dict(
    taps=dict(embedding='head.fc.in'),
    losses=dict(
        crd=dict(
            type='CRDLoss',
            on='embedding',
            num_samples=50000,
            negatives=16384,
            tau=0.07,
            replace=False,
            weight=0.8,
        )
    ),
)
